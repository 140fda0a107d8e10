"""Kernels called without torch's operator registry where nothing is traced.

The first call of a registered operator imports torch's compiler, which takes longer than loading the kernels, and
every call passes through several layers of Python.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode

_PLAIN = (Tensor, torch.nn.Parameter, type(None))


def is_traced(operands: Sequence[Tensor | None]) -> bool:
    """Whether torch.compile, torch.export or another tool that needs the registered operator is looking.

    Memory may be read only where none is: what torch.func transforms and what subclasses wrap has none of its own.
    """
    return (
        torch.compiler.is_compiling()
        or any(type(tensor) not in _PLAIN for tensor in operands)
        or _get_current_dispatch_mode() is not None
        or torch._C._are_functorch_transforms_active()  # as torch.autograd.Function asks
        or torch._C._get_tracing_state() is not None  # as torch.jit.is_tracing does
    )


def eager(
    compute: Callable[..., Any],
    setup_context: Callable[[Any, tuple[Any, ...], Any], None],
    differentiate: Callable[..., tuple[Tensor | None, ...]],
) -> Callable[..., Any]:
    """Join a computation and its gradient for autograd.

    Args:
        compute: From the operands to one tensor or several.
        setup_context: Keeps what the gradient needs, as in `torch.library.register_autograd`.
        differentiate: From the context and gradients of the outputs to gradients of the operands; once.
    """

    class Operator(torch.autograd.Function):
        forward = staticmethod(compute)

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, *gradients: Any) -> Any:
            return differentiate(ctx, *gradients)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            setup_context(ctx, inputs, output)

    apply: Callable[..., Any] = Operator.apply
    return apply
