"""Weights of a patch grid carried over to another one: helpers of `AuMPreTrainedModel`."""

import copy
from typing import Any

from torch import Tensor, nn

from hf_audio_mamba.models.aum.configuration_aum import AuMConfig

GRID_FIELDS = ("max_length", "patch_size", "num_mel_bins")
_HUB_OPTIONS = (
    "_commit_hash",
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)


def stored_grid(source: Any, options: dict[str, Any]) -> dict[str, int]:
    """Sizes that stored weights were made for.

    Args:
        source: Folder or repository of a model, as `from_pretrained` takes it.
        options: Arguments of `from_pretrained`.

    Returns:
        A value for each of `GRID_FIELDS`; none at all where there is no stored configuration.
    """
    if source is None:
        return {}
    options = {name: options[name] for name in _HUB_OPTIONS if name in options}
    try:
        fields, _ = AuMConfig.get_config_dict(source, **options)
    except OSError:  # weights without a configuration, which the caller then gives; or nothing, which loading reports
        return {}
    return {name: fields.get(name, getattr(AuMConfig, name)) for name in GRID_FIELDS}


def with_fields(config: AuMConfig, values: dict[str, int]) -> AuMConfig:
    """A copy of a configuration with other values, whose types alone are checked."""
    changed = copy.deepcopy(config)
    for name, value in values.items():
        setattr(changed, name, value)
    return changed


def replacement(old: Tensor, values: Tensor) -> nn.Parameter:
    """A parameter of another size with the marks of the old one, such as that against weight decay."""
    new = nn.Parameter(values, requires_grad=old.requires_grad)
    new.__dict__.update(old.__dict__)
    return new
