"""Published weights of AuM (Erol et al. 2024) and Vision Mamba (Zhu et al. 2024) as an AuM model of this package.

Sizes, depth, variant and number of labels are read from the tensors. What a file does not tell is asked for: where a
single class token stands (its position row comes first in AuM's files, wherever it stands), and the bands of a frame.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_audio_mamba.errors import CheckpointError
from hf_audio_mamba.layers import resize_position_table
from hf_audio_mamba.models.aum.configuration_aum import AuMConfig
from hf_audio_mamba.models.foreign_tensors import ConvertedWeights, ForeignTensors, mean_over_channels

_BODY = "aum."


def convert_aum(tensors: Mapping[str, Tensor], *, num_mel_bins: int = 128, **fields: Any) -> ConvertedWeights:
    """Convert a checkpoint of AuM's published code.

    Args:
        tensors: Tensors by name, as in the file.
        num_mel_bins: Bands of a frame; the patches that the position table holds are shared out between them and time.
        fields: Other fields of `AuMConfig` that no tensor tells, such as `cls_position`, `id2label` or `problem_type`.

    Raises:
        CheckpointError: If the tensors are not those of an AuM model.
    """
    source = ForeignTensors(tensors, "an AuM checkpoint")
    sizes = _mixer_sizes(source)
    table = source.take("pos_embed.pos_embed", 3)
    tokens = _token_names(source)
    patch_size = int(source.take("patch_embed.proj.weight", 4).shape[2])
    bands = num_mel_bins // patch_size
    patches = table.shape[1] - len(tokens)
    if num_mel_bins % patch_size or patches < bands or patches % bands:
        raise CheckpointError(
            f"pos_embed.pos_embed has {patches} patches, which {num_mel_bins} mel bands in patches of {patch_size} do "
            "not share out evenly; give the number of mel bands that the model was trained with"
        )
    if "cls_position" not in fields and len(tokens) != 1:
        fields["cls_position"] = "double" if tokens else "none"
    head = source.take("head.weight", 2)
    fields.setdefault("num_labels", int(head.shape[0]))
    config = AuMConfig(
        **sizes, patch_size=patch_size, num_mel_bins=num_mel_bins, max_length=patches // bands * patch_size, **fields
    )
    if config.num_class_tokens != len(tokens):
        raise CheckpointError(
            f"cls_position {config.cls_position!r} needs {config.num_class_tokens} class tokens; the file has "
            f"{len(tokens)}"
        )
    weights = dict(source.tensors)
    kernels = weights["patch_embed.proj.weight"]
    weights["patch_embed.proj.weight"] = mean_over_channels(kernels)
    notes = [] if kernels.shape[1] == 1 else ["patch kernels for three colours became their mean"]
    return ConvertedWeights(config, {_ours(name): tensor for name, tensor in weights.items()}, {}, notes)


def convert_vim(
    tensors: Mapping[str, Tensor], *, num_mel_bins: int = 128, max_length: int = 1024, **fields: Any
) -> ConvertedWeights:
    """Convert an ImageNet checkpoint of Vision Mamba, for fine-tuning on audio (AuM, "ImageNet initialisation").

    Args:
        tensors: Tensors by name, as in the file.
        num_mel_bins: Bands of a frame.
        max_length: Frames that the model shall hear at once; positions are interpolated for its patch grid.
        fields: Other fields of `AuMConfig`: labels, `problem_type`.

    Raises:
        CheckpointError: If the tensors are not those of a Vision Mamba with its class token in the middle.
    """
    source = ForeignTensors(tensors, "a Vision Mamba checkpoint")
    sizes = _mixer_sizes(source)
    kernels = source.take("patch_embed.proj.weight", 4)
    patch_size = int(kernels.shape[2])
    config = AuMConfig(**sizes, patch_size=patch_size, num_mel_bins=num_mel_bins, max_length=max_length, **fields)
    if config.cls_position != "middle" or "cls_token" not in source.tensors:
        raise CheckpointError("only Vision Mamba with its class token in the middle is converted (vim_*_midclstok)")
    table = source.take("pos_embed", 3)
    side = math.isqrt(table.shape[1] - 1)
    if side * side != table.shape[1] - 1:
        raise CheckpointError(f"pos_embed has {table.shape[1]} rows, which are no square of patches and a class token")
    # Its rows stand in the order of the sequence; here the class token's comes first.
    middle = side * side // 2
    table = torch.cat([table[:, middle : middle + 1], table[:, :middle], table[:, middle + 1 :]], dim=1)
    weights = {name: tensor for name, tensor in source.tensors.items() if not name.startswith("head.")}
    dropped = {name: "its labels are ImageNet's" for name in source.tensors if name.startswith("head.")}
    del weights["pos_embed"]
    weights["pos_embed.pos_embed"] = resize_position_table(table, (side, side), config.patch_grid, num_leading=1)
    weights["patch_embed.proj.weight"] = mean_over_channels(kernels)
    bands, times = config.patch_grid
    notes = [
        "patch kernels for three colours became their mean",
        f"positions of {side} x {side} patches were interpolated for {bands} x {times}",
    ]
    return ConvertedWeights(config, {_ours(name): tensor for name, tensor in weights.items()}, dropped, notes)


def _ours(name: str) -> str:
    return name if name.startswith("head.") else _BODY + name


def _token_names(source: ForeignTensors) -> list[str]:
    return sorted(name for name in source.tensors if name.startswith("cls_token"))


def _mixer_sizes(source: ForeignTensors) -> dict[str, Any]:
    """The fields of the configuration that the first block's tensors tell."""
    mixer = "layers.0.mixer."
    width = int(source.take("norm_f.weight", 1).shape[0])
    a_log = source.take(mixer + "A_log", 2)
    if a_log.shape[0] % width:
        raise CheckpointError(f"{mixer}A_log has {a_log.shape[0]} channels, which are no multiple of the width {width}")
    if mixer + "conv1d_b.weight" in source.tensors:
        variant = "bi-bi"
    else:
        variant = "fo-bi" if mixer + "A_b_log" in source.tensors else "fo-fo"
    return {
        "hidden_size": width,
        "num_hidden_layers": source.count(r"layers\.(\d+)\."),
        "state_size": int(a_log.shape[1]),
        "conv_kernel": int(source.take(mixer + "conv1d.weight", 3).shape[2]),
        "expand": int(a_log.shape[0]) // width,
        "bimamba_type": variant,
    }


__all__ = ["convert_aum", "convert_vim"]
