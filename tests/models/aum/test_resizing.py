"""Weights made for another length or patch size: what is carried over, and how they load."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from scipy.ndimage import zoom
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification

from hf_audio_mamba import AuMForAudioClassification, AuMModel
from hf_audio_mamba.layers import resize_patch_kernel, resize_position_table
from tests.models.aum.models import BANDS, FRAMES, clips, randomised, tiny


def triangle_weights(old: int, new: int) -> np.ndarray:
    """Bilinear interpolation along one axis, `(new, old)`, with a triangle as wide as the coarser of both grids."""
    scale = old / new
    width = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale - 0.5
    weights = np.clip(1 - np.abs(np.arange(old)[None] - centres[:, None]) / width, 0, None)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("old", "new"), [((2, 6), (2, 3)), ((2, 3), (4, 7)), ((3, 5), (2, 8))])
@pytest.mark.parametrize("num_leading", [0, 1, 2])
def test_positions_are_interpolated_bilinearly_with_antialiasing(
    old: tuple[int, int], new: tuple[int, int], num_leading: int
) -> None:
    table = torch.randn(1, num_leading + old[0] * old[1], 5, generator=torch.Generator().manual_seed(0))
    resized = resize_position_table(table, old, new, num_leading=num_leading)
    assert torch.equal(resized[:, :num_leading], table[:, :num_leading])
    grid = table[0, num_leading:].double().numpy().reshape(*old, 5)
    expected = np.einsum("fa,tb,abd->ftd", triangle_weights(old[0], new[0]), triangle_weights(old[1], new[1]), grid)
    np.testing.assert_allclose(resized[0, num_leading:].numpy(), expected.reshape(-1, 5), atol=1e-5)


def test_positions_of_the_same_grid_are_kept() -> None:
    table = torch.randn(1, 1 + 6, 5)
    assert torch.equal(resize_position_table(table, (2, 3), (2, 3), num_leading=1), table)


@pytest.mark.parametrize(("old", "new"), [(4, 7), (3, 8), (4, 4)])
def test_larger_kernels_give_the_same_embeddings_of_enlarged_patches(old: int, new: int) -> None:
    """FlexiViT's claim, which is exact where patches are enlarged; judged by another library's enlargement."""
    rng = np.random.default_rng(0)
    patch, kernel = rng.standard_normal((old, old)), rng.standard_normal((6, 1, old, old))
    enlarged = zoom(patch, new / old, order=1, mode="nearest", grid_mode=True)
    assert enlarged.shape == (new, new)
    resized = resize_patch_kernel(torch.from_numpy(kernel), new)
    np.testing.assert_allclose(
        (resized.numpy()[:, 0] * enlarged).sum((1, 2)), (kernel[:, 0] * patch).sum((1, 2)), atol=1e-10
    )


def test_smaller_kernels_keep_the_embeddings_of_smooth_patches() -> None:
    ramp = torch.linspace(-1, 1, 8)
    patch = 1 + ramp[:, None] + 2 * ramp[None]
    kernel = torch.ones(1, 1, 8, 8)
    small = patch.view(4, 2, 4, 2).mean((1, 3))  # what bilinear halving takes
    resized = resize_patch_kernel(kernel, 4)
    assert (resized[0, 0] * small).sum().item() == pytest.approx(patch.sum().item(), rel=1e-4)


def test_resizing_keeps_everything_else_and_the_marks() -> None:
    model = randomised(AuMForAudioClassification(tiny(cls_position="double")))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert model.resize_positions(max_length=2 * FRAMES) is model
    after = model.state_dict()
    for name in before.keys() - {"aum.pos_embed.pos_embed"}:
        assert torch.equal(after[name], before[name]), name
    assert after["aum.pos_embed.pos_embed"].shape == (1, 2 + 2 * 6, 8)
    assert model.aum.pos_embed.pos_embed._no_weight_decay
    assert model.aum.pos_embed.pos_embed.requires_grad
    assert model.config.max_length == model.aum.config.max_length == 2 * FRAMES


def test_a_resized_model_hears_a_longer_clip_at_once() -> None:
    model = randomised(AuMForAudioClassification(tiny()))
    model.resize_positions(max_length=2 * FRAMES)
    out = model.aum(clips(frames=2 * FRAMES))
    assert out.last_hidden_state.shape == (2, 1 + 2 * 6, 8)


def test_another_patch_size_changes_the_sequence_alone() -> None:
    model = randomised(AuMForAudioClassification(tiny()))
    kernel = model.aum.patch_embed.proj.weight.detach().clone()
    model.resize_positions(patch_size=2)
    assert model.config.patch_grid == (4, 6)
    assert torch.equal(model.aum.patch_embed.proj.weight, resize_patch_kernel(kernel, 2))
    assert model.aum(clips()).last_hidden_state.shape == (2, 1 + 24, 8)


@pytest.mark.parametrize("sizes", [{"max_length": 10}, {"patch_size": 3}, {"max_length": 0}, {"max_length": 12.0}])
def test_a_grid_that_does_not_fit_changes_nothing(sizes: dict[str, Any]) -> None:
    model = AuMModel(tiny())
    table = model.pos_embed.pos_embed
    with pytest.raises(StrictDataclassError, match=next(iter(sizes))):
        model.resize_positions(**sizes)
    assert model.pos_embed.pos_embed is table
    assert model.config.patch_grid == (2, 3)


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    randomised(AuMForAudioClassification(tiny())).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("sizes", [{"max_length": 20}, {"patch_size": 2}, {"max_length": 18, "patch_size": 2}])
def test_a_model_loads_for_another_grid(folder: Path, sizes: dict[str, int]) -> None:
    expected = AuMForAudioClassification.from_pretrained(folder).resize_positions(**sizes)
    config = AutoConfig.from_pretrained(folder, **sizes)
    for loaded in (
        AuMForAudioClassification.from_pretrained(folder, **sizes),
        AutoModelForAudioClassification.from_pretrained(folder, **sizes),
        AutoModelForAudioClassification.from_pretrained(folder, config=config),
    ):
        assert {name: getattr(loaded.config, name) for name in sizes} == sizes
        for name, tensor in expected.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        assert not loaded.training
    assert AutoModel.from_pretrained(folder, **sizes).config.patch_grid == expected.config.patch_grid


def test_a_resized_model_is_saved_with_its_grid(folder: Path, tmp_path: Path) -> None:
    model = AuMForAudioClassification.from_pretrained(folder, max_length=20)
    model.save_pretrained(tmp_path / "resized")
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path / "resized")
    assert torch.equal(loaded(clips(frames=20)).logits, model(clips(frames=20)).logits)


def test_loading_for_another_grid_still_tells_what_a_file_lacks(folder: Path) -> None:
    options: dict[str, Any] = {"max_length": 20, "num_labels": 5, "ignore_mismatched_sizes": True}
    model, info = AuMForAudioClassification.from_pretrained(folder, output_loading_info=True, **options)
    assert {key[0] for key in info["mismatched_keys"]} == {"head.weight", "head.bias"}
    assert model(clips(frames=20)).logits.shape == (2, 5)


def test_weights_of_another_number_of_bands_are_carried_over_too(folder: Path) -> None:
    model = AuMForAudioClassification.from_pretrained(folder, num_mel_bins=2 * BANDS, dtype=torch.bfloat16)
    assert model.config.patch_grid == (4, 3)
    assert model.aum.pos_embed.pos_embed.dtype == torch.bfloat16
    assert torch.isfinite(model(torch.randn(1, FRAMES, 2 * BANDS)).logits).all()
