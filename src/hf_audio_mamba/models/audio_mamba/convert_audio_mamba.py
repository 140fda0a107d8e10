"""Published ImageNet weights of VMamba (Liu et al. 2024, arXiv:2401.10166) as an AudioMamba model of this package.

Three layouts of names are known: files of the training code, files saved from the single-file implementation, which
stack the projections of the four routes, and files of the first version, with blocks without a feed-forward network.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hf_audio_mamba.errors import CheckpointError
from hf_audio_mamba.models.audio_mamba.configuration_audio_mamba import AudioMambaConfig
from hf_audio_mamba.models.foreign_tensors import ConvertedWeights, ForeignTensors, mean_over_channels

_BODY = "audio_mamba."
_ROUTES = 4
# Names of other layouts and what they are called in files of the training code.
_RENAMED = (
    (r"^patch_embed\.proj\.", "patch_embed.0."),
    (r"^patch_embed\.norm\.", "patch_embed.2."),
    (r"\.ln_1\.", ".norm."),
    (r"\.self_attention\.", ".op."),
    (r"\.x_proj\.weight$", ".x_proj_weight"),
    (r"\.dt_projs\.weight$", ".dt_projs_weight"),
    (r"^classifier\.norm\.", "norm."),
    (r"^classifier\.head\.", "head."),
)


def convert_vmamba(
    tensors: Mapping[str, Tensor], *, target: AudioMambaConfig | None = None, **fields: Any
) -> ConvertedWeights:
    """Convert an ImageNet checkpoint of VMamba, for fine-tuning on audio (Lin & Hu, "+ ImageNet").

    Args:
        tensors: Tensors by name, as in the file.
        target: The model to fill, which may have more blocks in a stage than the file: those stay new. By default the
            model that the tensors tell, which they fill but for the head and the norm over mel bands.
        fields: Fields of `AudioMambaConfig` that no tensor tells, such as labels and `problem_type`; not with `target`.

    Raises:
        CheckpointError: If the tensors are not those of a VMamba, or the target has other sizes.
    """
    renamed = {_training_name(name): tensor for name, tensor in tensors.items()}
    source = ForeignTensors(renamed, "a VMamba checkpoint")
    sizes = _sizes(source)
    config = AudioMambaConfig(**sizes, **fields) if target is None else target
    _check_target(config, sizes)
    weights: dict[str, Tensor] = {}
    dropped: dict[str, str] = {}
    for own_name, tensor in tensors.items():
        name = _training_name(own_name)
        block = re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name)
        if name.startswith("head."):
            dropped[own_name] = "its labels are ImageNet's"
        elif block and int(block[2]) >= config.depths[int(block[1])]:
            dropped[own_name] = "the model has fewer blocks in this stage"
        else:
            weights[_BODY + name] = _reshaped(name, tensor)
    first = _BODY + "patch_embed.0.weight"
    weights[first] = mean_over_channels(weights[first])
    return ConvertedWeights(
        config, weights, dropped, ["kernels of the first convolution became their mean over colours"]
    )


def _training_name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _reshaped(name: str, tensor: Tensor) -> Tensor:
    """Give a tensor the shape that it has in files of the training code."""
    if name.endswith((".x_proj_weight", ".dt_projs_weight")) and tensor.ndim == 2 and tensor.shape[0] % _ROUTES == 0:
        return tensor.reshape(_ROUTES, -1, tensor.shape[1])
    is_linear = name.endswith((".in_proj.weight", ".out_proj.weight", ".fc1.weight", ".fc2.weight"))
    if is_linear and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)
    return tensor


def _sizes(source: ForeignTensors) -> dict[str, Any]:
    """The fields of the configuration that the tensors tell."""
    block = "layers.0.blocks.0."
    width = int(source.take(block + "norm.weight", 1).shape[0])
    stages = source.count(r"layers\.(\d+)\.")
    inner = int(source.take(block + "op.out_norm.weight", 1).shape[0])
    in_proj = source.tensors.get(block + "op.in_proj.weight")
    if in_proj is None or in_proj.shape[0] not in (inner, 2 * inner):
        raise CheckpointError(
            f"this is not {source.kind}: {block}op.in_proj.weight does not fit the inner width {inner}"
        )
    has_mlp = block + "mlp.fc1.weight" in source.tensors
    return {
        "embed_dim": width,
        "depths": [source.count(rf"layers\.{stage}\.blocks\.(\d+)\.") for stage in range(stages)],
        "state_size": int(source.take(block + "op.A_logs", 2).shape[1]),
        "expand": inner / width,
        "gated": in_proj.shape[0] == 2 * inner,
        "conv_bias": block + "op.conv2d.bias" in source.tensors,
        "mlp_ratio": source.tensors[block + "mlp.fc1.weight"].shape[0] / width if has_mlp else 0.0,
        "stem": "v2" if "patch_embed.5.weight" in source.tensors else "v1",
        "downsample": _downsampling(source),
    }


def _downsampling(source: ForeignTensors) -> str:
    if "layers.0.downsample.reduction.weight" in source.tensors:
        return "v1"
    return {2: "v2", 3: "v3"}.get(source.take("layers.0.downsample.1.weight", 4).shape[2], "unknown")


def _check_target(config: AudioMambaConfig, sizes: Mapping[str, Any]) -> None:
    for name, value in sizes.items():
        wanted = getattr(config, name)
        # A model may have more or fewer blocks than the file, but not more stages.
        if (len(wanted) != len(value)) if name == "depths" else (wanted != value):
            raise CheckpointError(f"the checkpoint's {name} is {value}, that of the model to fill {wanted}")


__all__ = ["convert_vmamba"]
