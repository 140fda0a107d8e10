"""Checks of an operation's arguments, so that a wrong one is named before any kernel reads memory."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_audio_mamba.errors import ShapeError

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_input(operation: str, x: Tensor) -> None:
    """Check the main input `x (batch, length, channels)`: a rank of 3, nothing empty, a floating dtype.

    Raises:
        ShapeError: If it is anything else.
    """
    if x.ndim != 3:
        raise ShapeError(f"{operation}: x must be (batch, length, channels), got shape {tuple(x.shape)}.")
    for axis, size in zip(("batch", "length", "channels"), x.shape, strict=True):
        if size == 0:
            raise ShapeError(f"{operation}: x has no {axis}, its shape is {tuple(x.shape)}.")
    _check_dtype(operation, "x", x)


def check_argument(operation: str, name: str, tensor: Tensor, axes: str, shape: Sequence[int], x: Tensor) -> None:
    """Check that an argument has the shape that the others imply, a floating dtype and the device of `x`.

    Args:
        operation: Name of the operation, for the message.
        name: Name of the argument, for the message.
        tensor: The argument.
        axes: Names of its axes, for the message, for example `"(channels, state)"`.
        shape: Sizes that it must have.
        x: The main input.

    Raises:
        ShapeError: If it has not.
    """
    if tuple(tensor.shape) != tuple(shape):
        raise ShapeError(f"{operation}: {name} must be {axes} = {tuple(shape)}, got shape {tuple(tensor.shape)}.")
    _check_dtype(operation, name, tensor)
    if tensor.device != x.device:
        raise ShapeError(f"{operation}: {name} is on {tensor.device} but x is on {x.device}; move both to one device.")


def _check_dtype(operation: str, name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided:
        raise ShapeError(f"{operation}: {name} must be dense, got {tensor.layout}; convert it with {name}.to_dense().")
    if tensor.dtype not in FLOATING:
        raise ShapeError(
            f"{operation}: {name} must be float16, bfloat16, float32 or float64, got {tensor.dtype}; "
            f"convert it with {name}.float()."
        )
