"""Position tables and patch kernels carried over to another patch grid."""

import torch
import torch.nn.functional as F


def resize_position_table(
    table: torch.Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], *, num_leading: int
) -> torch.Tensor:
    """Interpolate learned positions of one patch grid for another one, bilinearly with antialiasing.

    Args:
        table: `(1, num_leading + bands * times, hidden_size)`: class tokens, then the grid band by band.
        old_grid: Patches over the bands and over time that the table was made for.
        new_grid: Those wanted.
        num_leading: Rows of class tokens in front, which are kept.

    Returns:
        The table of the new grid, in the dtype of `table`.
    """
    leading, positions = table[:, :num_leading], table[:, num_leading:]
    grid = positions.float().view(1, *old_grid, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=new_grid, mode="bilinear", align_corners=False, antialias=True)
    return torch.cat([leading, grid.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


def resize_patch_kernel(weight: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Resize patch kernels so that resized patches give the embeddings of the original ones, as far as that goes.

    FlexiViT (Beyer et al. 2023), section 3.4, eq. 5: with `B` the matrix of bilinear resizing, kernels are multiplied
    by the pseudo-inverse of `B` transposed. Plain interpolation would change the size of the embeddings.

    Args:
        weight: `(hidden_size, channels, height, width)`.
        patch_size: Height and width wanted.

    Returns:
        `(hidden_size, channels, patch_size, patch_size)`, in the dtype of `weight`.
    """
    old_size = weight.shape[2:]
    pixels = old_size.numel()
    # On the CPU, because not every accelerator calculates in double precision.
    # The images of all single pixels are the columns of the resizing matrix.
    unit_patches = torch.eye(pixels, dtype=torch.float64).view(pixels, 1, *old_size)
    resized = F.interpolate(unit_patches, size=(patch_size, patch_size), mode="bilinear", align_corners=False)
    transform = torch.linalg.pinv(resized.flatten(1))
    kernels: torch.Tensor = weight.cpu().double().flatten(2) @ transform.T
    return kernels.view(*weight.shape[:2], patch_size, patch_size).to(weight)
