"""Clips of any length as windows of one length, so that every frame is heard."""

import torch


def clip_windows(
    input_values: torch.Tensor, attention_mask: torch.Tensor | None, window: int, padding_value: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut clips into as few windows as hear every frame, evenly placed from the first frame to the last.

    A clip of at most `window` frames makes one window, padded behind its end. Which windows a clip has depends on its
    own frames alone, not on the padding around them.

    Args:
        input_values: `(batch, frames, bands)`.
        attention_mask: `(batch, frames)`, 1 at frames and 0 at padding, wherever that stands; None where there is none.
        window: Frames of a window.
        padding_value: Stands behind the end of short clips.

    Returns:
        Windows `(batch, windows, window, bands)` and their weights `(batch, windows)` float32. The weights of a clip
        add up to 1; those of windows that it does not have are 0.
    """
    batch, frames, bands = input_values.shape
    device = input_values.device
    if attention_mask is None:
        lengths = torch.full((batch,), frames, device=device)
    else:
        valid = attention_mask.bool()
        lengths = valid.sum(dim=1)
        order = (~valid).long().argsort(dim=1, stable=True)
        input_values = input_values.gather(1, order[..., None].expand(batch, frames, bands))
    counts = (lengths + window - 1).div(window, rounding_mode="floor").clamp(min=1)[:, None]
    numbers = torch.arange((frames + window - 1) // window, device=device)
    gaps = (counts - 1).clamp(min=1)
    slack = (lengths[:, None] - window).clamp(min=0)
    starts = (numbers.clamp(max=counts - 1) * slack + gaps // 2).div(gaps, rounding_mode="floor")
    rows = starts[..., None] + torch.arange(window, device=device)
    index = rows.clamp(max=frames - 1).flatten(1)[..., None].expand(-1, -1, bands)
    windows = input_values.gather(1, index).reshape(*rows.shape, bands)
    windows = windows.masked_fill((rows >= lengths[:, None, None])[..., None], padding_value)
    return windows, (numbers < counts) / counts
