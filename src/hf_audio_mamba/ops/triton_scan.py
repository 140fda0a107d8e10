"""The selective scan's Triton kernels as an operator of torch: memory, launches, gradients.

Registered with torch.library, so that torch.compile and torch.export see one opaque node and its gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from hf_audio_mamba.ops import triton_scan_backward as backward_kernels
from hf_audio_mamba.ops import triton_scan_forward as forward_kernels
from hf_audio_mamba.ops import triton_tuning
from hf_audio_mamba.ops.triton_blocks import LANES, TILE, Inputs, Parameters, Sizes, on_device, stream_of
from hf_audio_mamba.ops.triton_scan_backward import Gradients
from hf_audio_mamba.ops.triton_scan_forward import States

NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")
"""Operands of one direction, in the operator's order; D and what follows may be left out: an empty tensor."""


@dataclass(frozen=True)
class Call:
    """One call of the operator, of one direction or of two."""

    operands: dict[str, list[Tensor] | None]  # name: tensor of each direction
    dt_softplus: bool
    backwards: int  # the direction in which time runs from the last row to the first; -1 if there is none

    @property
    def x(self) -> Tensor:
        """Input of direction 0 (batch, length, channels)."""
        return self.required("x")[0]

    @property
    def directions(self) -> int:
        """1 or 2."""
        return len(self.required("x"))

    @property
    def groups(self) -> int:
        """Groups of B and C."""
        return int(self.required("B")[0].shape[2])

    @property
    def state(self) -> int:
        """States of a channel."""
        return int(self.required("A")[0].shape[1])

    @property
    def tiles(self) -> int:
        """Tiles of the length."""
        return int(-(-self.x.shape[1] // TILE.value))

    def required(self, name: str) -> list[Tensor]:
        """Operand of each direction."""
        tensors = self.operands[name]
        if tensors is None:
            raise AssertionError(f"{name} is no optional operand")
        return tensors

    def stacked(self, name: str, *shape: int) -> Tensor:
        """An operand of all directions in float32, contiguous; zeros of this shape where there is none."""
        tensors = self.operands[name]
        if tensors is None:
            return torch.zeros(self.directions, *shape, dtype=torch.float32, device=self.x.device)
        if len(tensors) == 1:
            return tensors[0].to(torch.float32).contiguous().unsqueeze(0)
        return torch.stack([tensor.to(torch.float32) for tensor in tensors])

    def empty(self, *shape: int) -> Tensor:
        """Memory for float32 values of all directions."""
        return torch.empty(self.directions, *shape, dtype=torch.float32, device=self.x.device)


def _call(operands: Sequence[Tensor], dt_softplus: bool, reverse: bool) -> Call:
    directions = [operands[start : start + len(NAMES)] for start in range(0, len(operands), len(NAMES))]
    named: dict[str, list[Tensor] | None] = {}
    for name, tensors in zip(NAMES, zip(*directions, strict=True), strict=True):
        named[name] = list(tensors) if tensors[0].numel() else None
    backwards = 1 if len(directions) == 2 else (0 if reverse else -1)
    return Call(named, dt_softplus, backwards)


def _inputs(call: Call) -> Inputs:
    x = stream_of(call.required("x"))
    z = call.operands["z"]
    dt, B, C = (stream_of(call.required(name)) for name in ("dt", "B", "C"))
    return Inputs(x, dt, x if z is None else stream_of(z), B, C)


def _parameters(call: Call) -> Parameters:
    channels = call.x.shape[2]
    return Parameters(*(call.stacked(name, channels) for name in ("A", "D", "dt_bias")))


def _sizes(call: Call) -> Sizes:
    batch, length, channels = call.x.shape
    programs = triton_tuning.count_warps(call.x, call.groups, call.directions)
    segment_tiles = -(-call.tiles // triton_tuning.choose_segments(programs, length, call.x.device))
    return Sizes(batch, length, channels, call.groups, -(-call.tiles // segment_tiles), segment_tiles)


def _grid(sizes: Sizes, directions: int, used: dict[str, int]) -> Callable[[dict[str, int]], tuple[int]]:
    """The number of programs for a block size, which is noted in `used`: the last one noted is the one that ran."""

    def grid(options: dict[str, int]) -> tuple[int]:
        used["BLOCK"] = options["BLOCK"]
        blocks = sizes.groups * triton.cdiv(sizes.channels // sizes.groups, options["BLOCK"])
        return (blocks * sizes.batch * sizes.segments * directions,)

    return grid


def _options(call: Call, sizes: Sizes) -> dict[str, Any]:
    """What all tuned kernels are given."""
    batch, length, channels, groups, segments, _ = sizes
    return {
        "sizes": sizes,
        "tuning_key": triton_tuning.tuning_key(batch * segments, length // segments, channels // groups),
        "STATE": call.state,
        "STATES": triton.next_power_of_2(call.state),
        "DIRECTIONS": call.directions,
        "BACKWARDS": call.backwards,
        "SOFTPLUS": call.dt_softplus,
    }


def _carry(
    call: Call, sizes: Sizes, A: Tensor, states: Tensor, durations: Tensor, given: Tensor | None, *, descending: bool
) -> Tensor:
    """What reaches each segment, from what each leaves behind and what is given to the first."""
    whole = sizes._replace(groups=1, segments=1)
    carried = torch.empty_like(states)
    forward_kernels.carry_kernel[_grid(whole, call.directions, {})](
        A,
        carried,
        states,
        durations,
        states if given is None else given,
        whole,
        sizes.segments,
        STATE=call.state,
        STATES=triton.next_power_of_2(call.state),
        GIVEN=given is not None,
        DESCENDING=descending,
        BLOCK=LANES,
        num_warps=1,
    )
    return carried


def _starts(call: Call, sizes: Sizes, inputs: Inputs, parameters: Parameters) -> Tensor | None:
    """State before each segment (directions, batch, segments, channels, state); None if 0 before the only one."""
    initial = None if call.operands["initial_state"] is None else call.stacked("initial_state")
    if sizes.segments == 1:
        return initial
    states = call.empty(sizes.batch, sizes.segments, sizes.channels, call.state)
    durations = call.empty(sizes.batch, sizes.segments, sizes.channels)
    forward_kernels.segment_states_kernel[_grid(sizes, call.directions, {})](
        inputs, parameters, states, durations, **_options(call, sizes)
    )
    return _carry(call, sizes, parameters.A, states, durations, initial, descending=False)


@torch.library.custom_op("hf_audio_mamba::triton_scan", mutates_args=())
def scan(operands: Sequence[Tensor], dt_softplus: bool, reverse: bool, checkpoints: bool) -> list[Tensor]:
    """Run one scan, or two at once.

    Args:
        operands: `NAMES` of one direction, or of two behind one another: the second runs backwards. Sizes, dtypes and
            what is left out are the same in both; x, dt, z, B and C are float32, bfloat16 or float16.
        dt_softplus: Whether softplus makes the step sizes positive.
        reverse: Whether a single direction runs backwards.
        checkpoints: Whether to keep the states that the gradient needs.

    Returns:
        Last states (directions, batch, channels, state); the states (directions, batch, tiles, channels, state), or an
        empty tensor without `checkpoints`; and each direction's output (batch, length, channels) in the dtype of x.
    """
    call = _call(operands, dt_softplus, reverse)
    sizes, inputs, parameters = _sizes(call), _inputs(call), _parameters(call)
    batch, _, channels = call.x.shape
    outputs = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in call.required("x")]
    last = call.empty(batch, channels, call.state)
    kept = call.empty(batch, call.tiles, channels, call.state) if checkpoints else last.new_empty(0)
    with on_device(call.x):
        starts = _starts(call, sizes, inputs, parameters)
        forward_kernels.scan_kernel[_grid(sizes, call.directions, {})](
            inputs,
            parameters,
            States(last if starts is None else starts, last, kept),
            stream_of(outputs),
            **_options(call, sizes),
            GATED=call.operands["z"] is not None,
            STARTED=starts is not None,
            CHECKPOINTS=checkpoints,
        )
    return [last, kept, *outputs]


@scan.register_fake
def _scan_fake(operands: Sequence[Tensor], dt_softplus: bool, reverse: bool, checkpoints: bool) -> list[Tensor]:
    call = _call(operands, dt_softplus, reverse)
    batch, _, channels = call.x.shape
    outputs = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in call.required("x")]
    last = call.empty(batch, channels, call.state)
    kept = call.empty(batch, call.tiles, channels, call.state) if checkpoints else last.new_empty(0)
    return [last, kept, *outputs]


@torch.library.custom_op("hf_audio_mamba::triton_scan_backward", mutates_args=())
def scan_gradients(
    dys: Sequence[Tensor],
    dlast_state: Tensor | None,
    operands: Sequence[Tensor],
    checkpoints: Tensor,
    dt_softplus: bool,
    reverse: bool,
) -> list[Tensor]:
    """Gradients of the operands in their dtypes; an empty tensor where one is left out."""
    call = _call(operands, dt_softplus, reverse)
    sizes, inputs, parameters = _sizes(call), _inputs(call), _parameters(call)
    with on_device(call.x):
        ends = _ends(call, sizes, inputs, parameters, dys, dlast_state)
        streams, gradients = _gradients(call, sizes, list(dys), ends)
        used: dict[str, int] = {}
        backward_kernels.gradients_kernel[_grid(sizes, call.directions, used)](
            inputs,
            parameters,
            checkpoints,
            gradients,
            **_options(call, sizes),
            GATED=call.operands["z"] is not None,
            ENDED=ends is not None,
        )
    blocks = triton.cdiv(sizes.channels // sizes.groups, used["BLOCK"])
    return _collect(call, operands, streams, gradients, blocks)


def _ends(
    call: Call,
    sizes: Sizes,
    inputs: Inputs,
    parameters: Parameters,
    dys: Sequence[Tensor],
    dlast_state: Tensor | None,
) -> Tensor | None:
    """Gradient of the state after each segment, shaped as `_starts`, or None if it is 0 after the only one."""
    if dlast_state is not None:
        dlast_state = dlast_state.contiguous()
    if sizes.segments == 1:
        return dlast_state
    ends = call.empty(sizes.batch, sizes.segments, sizes.channels, call.state)
    durations = call.empty(sizes.batch, sizes.segments, sizes.channels)
    backward_kernels.segment_gradients_kernel[_grid(sizes, call.directions, {})](
        inputs,
        parameters,
        stream_of(list(dys)),
        ends,
        durations,
        **_options(call, sizes),
        GATED=call.operands["z"] is not None,
    )
    return _carry(call, sizes, parameters.A, ends, durations, dlast_state, descending=True)


def _like(tensors: list[Tensor] | None) -> list[Tensor]:
    """Contiguous memory shaped as each tensor."""
    return [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors or []]


def _gradients(
    call: Call, sizes: Sizes, dys: list[Tensor], ends: Tensor | None
) -> tuple[dict[str, list[Tensor]], Gradients]:
    """Memory for gradients: those of x, dt and z as they are returned, and what the kernel fills."""
    batch, length, channels, groups, segments, _ = sizes
    streams = {name: _like(call.operands[name]) for name in ("x", "dt", "z")}
    dx, ddt, dz = (stream_of(tensors or streams["x"]) for tensors in streams.values())
    blocks = triton.cdiv(channels // groups, LANES)  # as many as the smallest block size makes
    starts = call.empty(batch, channels, call.state)
    gradients = Gradients(
        stream_of(dys),
        dx,
        ddt,
        dz,
        starts if ends is None else ends,
        starts,
        call.empty(blocks, batch, length, groups, call.state),
        call.empty(blocks, batch, length, groups, call.state),
        call.empty(batch, segments, channels, call.state),
        call.empty(batch, segments, channels),
        call.empty(batch, segments, channels),
    )
    return streams, gradients


def _collect(
    call: Call,
    operands: Sequence[Tensor],
    streams: dict[str, list[Tensor]],
    gradients: Gradients,
    blocks: int,
) -> list[Tensor]:
    """Add up the parts; gradients in the order of the operands."""
    directions = call.directions
    shape = gradients.dB.shape[2:]
    dB, dC = (
        part.view(-1)[: directions * blocks * shape.numel()].view(directions, blocks, *shape).sum(1)
        for part in (gradients.dB, gradients.dC)
    )
    totals = {
        "A": gradients.dA.sum((1, 2)),
        "B": dB,
        "C": dC,
        "D": gradients.dD.sum((1, 2)),
        "dt_bias": gradients.dbias.sum((1, 2)),
        "initial_state": gradients.starts,
    }
    results = []
    for place, operand in enumerate(operands):
        direction, name = place // len(NAMES), NAMES[place % len(NAMES)]
        if operand.numel() == 0:
            results.append(torch.empty_like(operand))
        elif name in streams:
            results.append(streams[name][direction])
        else:
            # Results of an operator must not share memory.
            total = totals[name][direction] if directions == 1 else totals[name][direction].clone()
            results.append(total.to(operand.dtype))
    return results


@scan_gradients.register_fake
def _scan_gradients_fake(
    dys: Sequence[Tensor],
    dlast_state: Tensor | None,
    operands: Sequence[Tensor],
    checkpoints: Tensor,
    dt_softplus: bool,
    reverse: bool,
) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in operands]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    operands, ctx.dt_softplus, ctx.reverse, _ = inputs
    ctx.save_for_backward(*operands, output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, gradients: list[Tensor | None]) -> tuple[list[Tensor], None, None, None]:
    *operands, checkpoints = ctx.saved_tensors
    dlast_state, _, *dys = gradients
    given = [torch.zeros_like(x) if dy is None else dy for x, dy in zip(operands[:: len(NAMES)], dys, strict=True)]
    results = scan_gradients(given, dlast_state, operands, checkpoints, ctx.dt_softplus, ctx.reverse)
    return results, None, None, None


scan.register_autograd(_differentiate, setup_context=_setup_context)
