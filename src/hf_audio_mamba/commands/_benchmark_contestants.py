"""The sides of the scan's comparison, each with its inputs in the layout in which its own mixer would pass them."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_audio_mamba._optional import require
from hf_audio_mamba.errors import MissingExtraError
from hf_audio_mamba.ops import selective_scan

TRANSFORMERS, MAMBAPY = "transformers", "mambapy"
BACKENDS = ("numba", "torch")
"""Backends of ours that are compared."""

# Steps at initialisation (Mamba reference code): softplus(bias) is log-uniform in this range.
_STEP_RANGE = (1e-3, 1e-1)
_EXPONENTIALS_A_CALL = 32_768  # input and output are 256 KiB together, which stay in the second cache level

Call = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class Shape:
    """Sizes of a scan."""

    batch: int
    length: int
    channels: int
    state: int

    def __str__(self) -> str:
        return f"({self.batch}, {self.length}, {self.channels}, {self.state})"

    @property
    def elements(self) -> int:
        """Elements of a sequence of inputs."""
        return self.batch * self.length * self.channels


@dataclass(frozen=True)
class Operands:
    """What a mixer has at hand before its scan, time-major: `z` is half of `xz`, `B` and `C` are columns of `x_dbl`."""

    x: Tensor  # (batch, length, channels)
    dt: Tensor
    xz: Tensor  # (batch, length, 2 * channels)
    x_dbl: Tensor  # (batch, length, rank + 2 * state)
    A: Tensor  # (channels, state)
    D: Tensor  # (channels,)
    dt_bias: Tensor
    dy: Tensor  # (batch, length, channels), gradient of the output

    @property
    def z(self) -> Tensor:
        """Gate."""
        return self.xz[..., self.x.shape[2] :]

    @property
    def B_and_C(self) -> tuple[Tensor, Tensor]:
        """Projections, each (batch, length, state)."""
        state = self.A.shape[1]
        return self.x_dbl[..., -2 * state : -state], self.x_dbl[..., -state:]


def draw_operands(shape: Shape) -> Operands:
    """Inputs of a scan as they are at a mixer's initialisation."""
    draw = torch.Generator().manual_seed(0)
    sequence = (shape.batch, shape.length, shape.channels)
    rank = math.ceil(shape.channels / 32)
    low, high = map(math.log, _STEP_RANGE)
    step = torch.exp(torch.rand(shape.channels, generator=draw) * (high - low) + low)
    return Operands(
        x=torch.randn(sequence, generator=draw),
        dt=torch.randn(sequence, generator=draw).mul_(0.1),
        xz=torch.randn(*sequence[:2], 2 * shape.channels, generator=draw),
        x_dbl=torch.randn(*sequence[:2], rank + 2 * shape.state, generator=draw),
        A=-torch.arange(1.0, shape.state + 1).repeat(shape.channels, 1),
        D=torch.ones(shape.channels),
        dt_bias=step + torch.log(-torch.expm1(-step)),
        dy=torch.randn(sequence, generator=draw),
    )


def scan_call(name: str, operands: Operands, *, train: bool) -> Call:
    """One contestant's work.

    Args:
        name: One of `BACKENDS`, `TRANSFORMERS` (its function for CPUs, which loops over time) or `MAMBAPY` (the same
            function with the parallel scan of the package mambapy in the place of the loop).
        operands: Inputs.
        train: Whether to compute gradients too.

    Returns:
        A call that returns the output, time-major, and with `train` the gradients of A, xz and x_dbl.

    Raises:
        MissingExtraError: If mambapy is asked for and not installed.
    """
    if name in BACKENDS:
        run = _ours(name, operands, train)
    else:
        run = _theirs({TRANSFORMERS: False, MAMBAPY: True}[name], operands, train)

    def forward() -> list[Tensor]:
        with torch.no_grad():
            return [run()]

    def step() -> list[Tensor]:
        leaves = (operands.A, operands.xz, operands.x_dbl)
        y = run()
        y.backward(operands.dy)  # type: ignore[no-untyped-call]  # torch's
        return [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    return step if train else forward


def _leaves(train: bool, *tensors: Tensor) -> Callable[[], None]:
    """Let tensors have gradients, and give back what forgets them."""
    for tensor in tensors:
        tensor.requires_grad_(train)

    def forget() -> None:
        for tensor in tensors:
            tensor.grad = None

    return forget


def _ours(backend: str, operands: Operands, train: bool) -> Callable[[], Tensor]:
    o = operands
    forget = _leaves(train, o.x, o.dt, o.xz, o.x_dbl, o.A, o.D, o.dt_bias)

    def run() -> Tensor:
        forget()
        return selective_scan(o.x, o.dt, o.A, *o.B_and_C, o.D, o.z, o.dt_bias, backend=backend)

    return run


def _theirs(use_mambapy: bool, operands: Operands, train: bool) -> Callable[[], Tensor]:
    from transformers.models.mamba import modeling_mamba

    if use_mambapy and not modeling_mamba.is_mambapy_available():
        require("mambapy.pscan", extra="bench", purpose="the comparison with mambapy")
        raise MissingExtraError("transformers does not find mambapy; install it with: pip install mambapy")
    # What lies under the decorators is transformers' own code, also where packages with kernels are installed.
    scan = inspect.unwrap(modeling_mamba.mamba_selective_scan)
    o = operands
    # Its convolution and its product with dt_proj leave these two contiguous in (batch, channels, length).
    x, dt = (t.detach().transpose(1, 2).contiguous() for t in (o.x, o.dt))
    forget = _leaves(train, x, dt, o.xz, o.x_dbl, o.A, o.D, o.dt_bias)

    def run() -> Tensor:
        forget()
        B, C = o.B_and_C
        y: Tensor = scan(
            x,
            dt,
            o.A,
            B.transpose(1, 2),
            C.transpose(1, 2),
            D=o.D,
            z=o.z.transpose(1, 2),
            delta_bias=o.dt_bias,
            delta_softplus=True,
            use_mambapy=use_mambapy,
        )
        return y.transpose(1, 2)

    return run


def into_given_memory(operands: Operands) -> Call:
    """The numba kernel with its output written into memory that was allocated before."""
    o = operands
    out = torch.empty_like(o.x)

    def call() -> list[Tensor]:
        with torch.no_grad():
            return [selective_scan(o.x, o.dt, o.A, *o.B_and_C, o.D, o.z, o.dt_bias, backend="numba", out=out)]

    return call


def backward_alone(operands: Operands) -> Call:
    """The gradients of one numba scan, computed anew from the same forward pass."""
    o = operands
    leaves = [o.x, o.dt, o.A, *(t.detach().contiguous() for t in (*o.B_and_C, o.z)), o.D, o.dt_bias]
    for leaf in leaves:
        leaf.requires_grad_()
    x, dt, A, B, C, z, D, dt_bias = leaves
    y = selective_scan(x, dt, A, B, C, D, z, dt_bias, backend="numba")
    return lambda: list(torch.autograd.grad(y, leaves, o.dy, retain_graph=True))


def copy_floor(shape: Shape) -> Callable[[], object]:
    """Reading and writing as many bytes as a scan must: x, dt and z are read, y is written, 16 bytes an element."""
    source = torch.zeros(2 * shape.elements)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


def exponential_floor(shape: Shape, function: Callable[..., Tensor]) -> Callable[[], object]:
    """One exponential for each update of a state, by `torch.exp` or `torch.exp2` on memory that stays in cache."""
    values = torch.linspace(-8, 0, _EXPONENTIALS_A_CALL)
    results = torch.empty_like(values)
    calls = math.ceil(shape.elements * shape.state / _EXPONENTIALS_A_CALL)

    def call() -> None:
        for _ in range(calls):
            function(values, out=results)

    return call
