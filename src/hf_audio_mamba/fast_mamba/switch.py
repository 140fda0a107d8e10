"""Changing the side of a model: the classes of its mixers, blocks and head, and nothing else."""

from types import MethodType
from typing import TypeVar

from torch import nn
from transformers.models.falcon_mamba.modeling_falcon_mamba import FalconMambaForCausalLM, FalconMambaMixer
from transformers.models.mamba.modeling_mamba import MambaBlock, MambaForCausalLM, MambaMixer, MambaModel

from hf_audio_mamba.errors import UnsupportedModelError
from hf_audio_mamba.fast_mamba.mixers import FastFalconMambaMixer, FastMambaBlock, FastMambaMixer
from hf_audio_mamba.fast_mamba.models import FastHead, FastMambaModel

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_MIXERS = (MambaMixer, FalconMambaMixer)
_FAST: dict[type[nn.Module], type[nn.Module]] = {
    MambaMixer: FastMambaMixer,
    FalconMambaMixer: FastFalconMambaMixer,
    MambaBlock: FastMambaBlock,
    MambaModel: FastMambaModel,
}
_STOCK = {fast: stock for stock, fast in _FAST.items()} | {FastHead: nn.Linear}
_WITH_HEAD = (MambaForCausalLM, FalconMambaForCausalLM)


def use_fast_mamba(model: ModuleT) -> ModuleT:
    """Run a model's Mamba mixers on this package's operations, in place.

    Parameters, their names and the results stay the same (to 1e-5 in float32), in inference, training and generation;
    the model can be saved and loaded as before. Beyond that, a cache can be continued with several tokens at a time,
    padding on the left leaves no trace whatever the biases, and adapters on `in_proj`, `x_proj`, `dt_proj` and
    `out_proj` all take part. Calling it again changes nothing.

    PEFT refuses LoRA on the `out_proj` of whole Mamba models, since transformers' kernels leave it out; here it works
    by `peft.inject_adapter_in_model(config, model.backbone.layers)`.

    Args:
        model: Model, or a wrapper of one, with mixers of the classes `MambaMixer` or `FalconMambaMixer` of
            transformers, for example a `MambaForCausalLM`.

    Returns:
        The model itself.

    Raises:
        UnsupportedModelError: If the model has no such mixer, or one that differs from transformers' own; it is left as
            it was.

    Example:
        >>> from transformers import MambaConfig, MambaForCausalLM
        >>> model = use_fast_mamba(MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=100)))
    """
    for name, mixer in _mixers(model):
        _check(name, mixer)
    for module in model.modules():
        _change_class(module, _FAST)
        if isinstance(module, _WITH_HEAD):
            _change_class(module.lm_head, {nn.Linear: FastHead})
    return model


def use_stock_mamba(model: ModuleT) -> ModuleT:
    """Undo `use_fast_mamba`, in place; a model that runs on transformers' code is left as it is.

    Args:
        model: Model, or a wrapper of one, with Mamba mixers.

    Returns:
        The model itself.

    Raises:
        UnsupportedModelError: If the model has no Mamba mixer that `use_fast_mamba` takes.
    """
    _mixers(model)
    for module in model.modules():
        _change_class(module, _STOCK)
    return model


def _mixers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    mixers = [(name, module) for name, module in model.named_modules() if isinstance(module, _MIXERS)]
    if not mixers:
        names = " or ".join(mixer.__name__ for mixer in _MIXERS)
        raise UnsupportedModelError(
            f"model: {type(model).__name__} has no mixer of the class {names} of transformers; "
            "pass a model such as MambaForCausalLM."
        )
    return mixers


def _check(name: str, mixer: nn.Module) -> None:
    if type(mixer) not in _FAST and type(mixer) not in _STOCK:
        raise UnsupportedModelError(
            f"model: {name} is a {type(mixer).__name__}, which may compute something else than the class of "
            "transformers that it derives from."
        )
    if "forward" in vars(mixer) and "_old_forward" not in vars(mixer):
        raise UnsupportedModelError(f"model: {name} has had its forward replaced; undo that first.")
    if mixer.activation not in ("silu", "swish"):
        raise UnsupportedModelError(
            f"model: {name} has the activation {mixer.activation!r} (hidden_act of its configuration), "
            "the fast operations have 'silu' alone."
        )


def _change_class(module: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> None:
    new_class = classes.get(type(module))
    if new_class is None:
        return
    module.__class__ = new_class
    if "_old_forward" in vars(module):  # accelerate's hooks keep the method that they call
        vars(module)["_old_forward"] = MethodType(new_class.forward, module)
