"""Kernels called without torch's operator registry where nothing is traced.

The first call of a registered operator imports torch's compiler, which takes longer than loading the kernels, and
every call passes through several layers of Python.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode


def is_traced(tensor: Tensor) -> bool:
    """Whether torch.compile, torch.export or another tool that needs the registered operator is looking."""
    plain = type(tensor) is Tensor or type(tensor) is torch.nn.Parameter
    return torch.compiler.is_compiling() or not plain or _get_current_dispatch_mode() is not None


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
