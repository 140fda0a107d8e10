"""Which implementation of an operation runs: the argument, else `scan_backend(...)`, else the environment, else `auto`.

`auto` takes the fastest backend that serves the tensors at hand, falls back to the next one with a single warning when
a backend cannot be used on this machine, and lets a compiled backend take part only after it has reproduced the
reference on a tiny input.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from hf_audio_mamba.errors import BackendError
from hf_audio_mamba.ops import chunked, mamba_ssm_cuda, reference, self_check, shifted_conv, single_step
from hf_audio_mamba.ops.row_order import conv_with_order, scan_with_order

ENVIRONMENT_VARIABLE = "HF_AUDIO_MAMBA_SCAN"
AUTO = "auto"
PREFERENCE = ("triton", "numba", "torch", "mamba_ssm", "reference")
"""All backends in the order in which `auto` tries them. torch serves everything, so those after it run on request."""

COMPILED = ("triton", "numba")
"""Those whose kernels are compiled on this machine."""

_requested: ContextVar[str | None] = ContextVar("hf_audio_mamba_scan_backend", default=None)
_warned: set[str] = set()


def available_backends(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> list[str]:
    """Names of the backends that can be used on this machine, in order of preference.

    Args:
        device: Device of the tensors they are to serve.
        dtype: Floating dtype of the tensors they are to serve.
    """
    kind = torch.device(device).type
    return [name for name in preferred(kind) if _unserved(name, kind, dtype) is None and _unusable(name) is None]


@contextmanager
def scan_backend(name: str) -> Iterator[None]:
    """Use one backend for all operations called in this context (of this thread or async task) that do not name one.

    Contexts nest; the inner one counts. Functions compiled by `torch.compile` keep the backend of their compilation.

    Args:
        name: `"auto"`, or one of `available_backends()`.

    Raises:
        BackendError: If the backend is unknown or cannot be used on this machine.
    """
    _check_usable(name, "scan_backend")
    token = _requested.set(name)
    try:
        yield
    finally:
        _requested.reset(token)


def problems(device: torch.device | str, dtype: torch.dtype = torch.float32) -> dict[str, str | None]:
    """Every backend, in order of preference, with why it would not run there, or None if it would.

    Compiled backends are put through their self-checks for a usual mixer (16 states, gate, 4 taps, with gradients).

    Args:
        device: Device of the tensors they are to serve.
        dtype: Floating dtype of the tensors they are to serve.
    """
    kind = torch.device(device).type
    return {
        name: _unserved(name, kind, dtype)
        or _unusable(name)
        or _incorrect(name, "scan", (16, 1, True, True, False, True), kind)
        or _incorrect(name, "conv", (4, True, False, True), kind)
        for name in preferred(kind)
    }


def serves(name: str, device: torch.device | str, dtype: torch.dtype = torch.float32) -> bool:
    """Whether a backend is made for tensors of this device and dtype, be it usable on this machine or not."""
    return _unserved(name, torch.device(device).type, dtype) is None


def choose(backend: str | None, device: str, dtype: torch.dtype, operation: str, variant: tuple[int, ...]) -> str:
    """Name of the backend that serves a call.

    Args:
        backend: The call's own wish, or None.
        device: Device type of the tensors.
        dtype: Dtype of the tensors.
        operation: A key of `self_check.CHECKS`.
        variant: Arguments of that check: what of the call selects a kernel.

    Raises:
        BackendError: If a backend was asked for by name that is unknown or cannot serve the call.
    """
    if torch.compiler.is_compiling():
        # Imported here since it draws in torch's compiler, which takes a second to load.
        from hf_audio_mamba.ops.tracing import choose_while_tracing

        name: str = choose_while_tracing(backend, device, dtype, operation, variant)
        return name
    return choose_now(backend, device, dtype, operation, variant)


def choose_now(backend: str | None, device: str, dtype: torch.dtype, operation: str, variant: tuple[int, ...]) -> str:
    """`choose` outside of tracing."""
    name, source = _request(backend)
    if name != AUTO:
        _check_usable(name, source)
        problem = _unserved(name, device, dtype) or _incorrect(name, operation, variant, device)
        if problem is not None:
            raise BackendError(
                f"{source}: the backend {name!r} {problem}. Usable for {dtype} on {device!r}: "
                f"{', '.join(available_backends(device, dtype))}, or 'auto'."
            )
        return name
    for candidate in preferred(device):
        if _unserved(candidate, device, dtype) is not None:
            continue
        problem = _unusable(candidate) or _incorrect(candidate, operation, variant, device)
        if problem is None:
            return candidate
        _warn_once(candidate, problem)
    raise AssertionError("the torch backend serves every device and dtype")


def preferred(device: str) -> tuple[str, ...]:
    """`PREFERENCE` on a device of this type: triton comes last on a CPU, where it can only be an interpreter."""
    return (*PREFERENCE[1:], "triton") if device == "cpu" else PREFERENCE


def scan_function(name: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """A backend's `selective_scan`, with the signature of `reference.selective_scan` and `order` and `lengths`."""
    return _SCANS[name]()


def takes_out(name: str) -> bool:
    """Whether a backend's scan takes `out` too."""
    return name == "numba"


def conv_function(name: str) -> Callable[..., Tensor]:
    """A backend's `causal_conv1d_silu`, with the signature of `reference.causal_conv1d_silu`, `order` and `lengths`."""
    return _CONVS[name]()


def state_update_function(name: str) -> Callable[..., Tensor]:
    """A backend's `selective_state_update`, with the signature of `reference.selective_state_update`."""
    return _step_module(name).selective_state_update  # type: ignore[no-any-return]  # numba is untyped


def conv_update_function(name: str) -> Callable[..., Tensor]:
    """A backend's `causal_conv1d_silu_update`, with the signature of `reference.causal_conv1d_silu_update`."""
    return _step_module(name).causal_conv1d_silu_update  # type: ignore[no-any-return]  # numba is untyped


def cross_scan_function(name: str) -> Callable[..., Tensor]:
    """A backend's kernel of all four routes at once, with the signature of `reference.cross_scan_2d`."""
    return _numba().cross_scan_2d if name == "numba" else reference.cross_scan_2d


def depthwise_conv_function(name: str) -> Callable[..., Tensor]:
    """A backend's `depthwise_conv2d_silu`, with the signature of `reference.depthwise_conv2d_silu`."""
    return _numba().depthwise_conv2d_silu if name == "numba" else reference.depthwise_conv2d_silu


def conv_norm_function(name: str) -> Callable[..., Tensor]:
    """A backend's `conv_norm`, with the signature of `reference.conv_norm`."""
    return _numba().conv_norm if name == "numba" else reference.conv_norm


def token_layers_function(name: str) -> Callable[..., Tensor]:
    """A backend's kernel of layers that treat every token alike, with the signature of `reference.token_layers`."""
    return _numba().token_layers if name == "numba" else reference.token_layers


def mixer_step_function(name: str) -> Callable[..., Tensor]:
    """A backend's step of a whole mixer, with the signature of `reference.mixer_step`."""
    return _numba().mixer_step if name == "numba" else reference.mixer_step


def stack_step_function(name: str) -> Callable[..., Tensor]:
    """A backend's step of a stack of blocks, with the signature of `reference.stack_step`."""
    return _numba().stack_step if name == "numba" else reference.stack_step


def few_rows_linear_function(name: str) -> Callable[..., Tensor]:
    """A backend's linear layer of few rows, with the signature of `reference.few_rows_linear`."""
    return _numba().few_rows_linear if name == "numba" else reference.few_rows_linear


def _step_module(name: str) -> Any:
    """What computes single steps for a backend: plain PyTorch unless it has kernels for them."""
    if name == "numba":
        return _numba()
    return reference if name == "reference" else single_step


def _numba() -> Any:
    # Not at the top: importing numba takes half a second, and a machine where it is broken must still load models.
    from hf_audio_mamba.ops import numba_cpu

    return numba_cpu


def _triton() -> Any:
    from hf_audio_mamba.ops import triton_gpu

    return triton_gpu


_SCANS: dict[str, Callable[[], Callable[..., tuple[Tensor, Tensor]]]] = {
    "triton": lambda: scan_with_order(_triton().selective_scan),
    "numba": lambda: _numba().selective_scan,
    "torch": lambda: scan_with_order(chunked.selective_scan),
    "mamba_ssm": lambda: scan_with_order(mamba_ssm_cuda.selective_scan),
    "reference": lambda: scan_with_order(reference.selective_scan),
}
_CONVS: dict[str, Callable[[], Callable[..., Tensor]]] = {
    "triton": lambda: conv_with_order(_triton().causal_conv1d_silu),
    "numba": lambda: _numba().causal_conv1d_silu,
    "torch": lambda: conv_with_order(shifted_conv.causal_conv1d_silu),
    "mamba_ssm": lambda: conv_with_order(shifted_conv.causal_conv1d_silu),  # it has no convolution of its own
    "reference": lambda: conv_with_order(reference.causal_conv1d_silu),
}


def _request(backend: str | None) -> tuple[str, str]:
    """The backend asked for, and by what (for messages)."""
    if backend is not None:
        return backend, "backend"
    in_context = _requested.get()
    if in_context is not None:
        return in_context, "scan_backend"
    return os.environ.get(ENVIRONMENT_VARIABLE) or AUTO, ENVIRONMENT_VARIABLE


def _check_usable(name: str, source: str) -> None:
    if name != AUTO and name not in PREFERENCE:
        problem = "is unknown"
    else:
        reason = None if name == AUTO else _unusable(name)
        if reason is None:
            return
        problem = f"cannot be used on this machine: {reason}"
    raise BackendError(
        f"{source}: the backend {name!r} {problem}. Usable here: {', '.join(available_backends())}, or 'auto'."
    )


def _unserved(name: str, device: str, dtype: torch.dtype) -> str | None:
    """Why a backend is not made for such tensors, or None."""
    if name == "numba" and device != "cpu":
        return f"computes on the CPU only, not on {device!r}"
    if name == "triton" and device != _triton_device():
        return f"computes on {_triton_device()!r} only, not on {device!r}"
    if name in COMPILED and dtype == torch.float64:
        return "computes in float32 only, not in float64"
    return mamba_ssm_cuda.unserved_reason(device, dtype) if name == "mamba_ssm" else None


def _triton_device() -> str:
    # The variable is looked at first: on a CPU without it, triton need not be imported.
    return "cpu" if os.environ.get("TRITON_INTERPRET") and _triton().is_interpreted() else "cuda"


def _unusable(name: str) -> str | None:
    """Why a backend does not work on this machine, or None."""
    if name == "mamba_ssm":
        return mamba_ssm_cuda.unavailable_reason()
    if name not in COMPILED:
        return None
    try:
        module = _numba() if name == "numba" else _triton()
        return module.unavailable_reason()  # type: ignore[no-any-return]  # numba is untyped
    except ImportError as error:
        return str(error)


def _incorrect(name: str, operation: str, variant: tuple[int, ...], device: str) -> str | None:
    """Why a backend's results cannot be trusted, or None. Only what was compiled on this machine need be checked."""
    if name not in COMPILED or (name == "triton" and operation not in ("scan", "conv")):
        return None
    return self_check.problem(operation, _OPERATIONS[operation](name), variant, device)


_OPERATIONS: dict[str, Callable[[str], Callable[..., Any]]] = {
    "scan": scan_function,
    "conv": conv_function,
    "state_update": state_update_function,
    "conv_update": conv_update_function,
    "mixer_step": mixer_step_function,
    "stack_step": stack_step_function,
    "few_rows_linear": few_rows_linear_function,
    "cross_scan": cross_scan_function,
    "token_layers": token_layers_function,
    "conv_norm": conv_norm_function,
    "depthwise_conv": depthwise_conv_function,
}


def _warn_once(name: str, problem: str) -> None:
    message = (
        f"The fast scan backend {name!r} is not used: {problem}. Results are the same, but slower. "
        f"Set {ENVIRONMENT_VARIABLE}=torch to accept this without a warning."
    )
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=5)  # the line that called the operation
