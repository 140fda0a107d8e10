"""Trust in compiled kernels: each kernel variant must reproduce the reference on a tiny input before it is used.

A miscompiled kernel (a new LLVM, an unusual processor, a damaged cache) would otherwise train and classify wrongly
without a sign of it.
"""

import threading
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from hf_audio_mamba.ops import reference
from hf_audio_mamba.ops.mixer_weights import MixerWeights, Norm
from hf_audio_mamba.ops.token_weights import ConvWeights, LinearWeights, NormWeights

RELATIVE_TOLERANCE = 1e-3
"""Largest error over largest value. Sound kernels stay below 1e-5, a wrong one is far above."""

BATCH, LENGTH, CHANNELS_PER_GROUP = 2, 37, 24
"""Ragged on purpose: multiples of no vector width or time tile."""


@lru_cache(maxsize=256)
def problem(operation: str, candidate: Callable[..., Any], variant: tuple[int, ...], device: str = "cpu") -> str | None:
    """Why a kernel may not be used, or None; computed once for each kernel variant in a process.

    Args:
        operation: A key of `CHECKS`.
        candidate: The backend's function.
        variant: What selects a kernel. For `"scan"`: (state size, groups, dt_softplus, gated, reverse,
            needs_backward); for `"conv"`: (width, has_bias, reverse, needs_backward). For `"state_update"`:
            (state size, groups, dt_softplus, gated, False); for `"conv_update"`: (width, has_bias, False); for
            `"mixer_step"`: (width, state size, has_norm, False); for `"stack_step"`: (width, state size, False); for
            `"few_rows_linear"`: (has_bias, False); for `"cross_scan"`: (rank, dt_softplus, False); for
            `"token_layers"`: (has_norm, has_first, has_bias, has_skip, False); for `"conv_norm"`: (kernel, stride,
            padding, gelu, False); for `"depthwise_conv"`: (has_bias, False).
        device: Where the candidate computes; the reference does on the CPU.
    """
    found: list[str | None] = []

    def check() -> None:
        found.append(_problem(operation, candidate, variant, device))

    # What the caller is in the middle of (a trace, a transform of torch.func, fake tensors, inference mode, another
    # default device) belongs to its thread: on one of its own the check sees none of it.
    thread = threading.Thread(target=check, name="hf_audio_mamba self-check")
    thread.start()
    thread.join()
    return found[0]


def _problem(operation: str, candidate: Callable[..., Any], variant: tuple[int, ...], device: str) -> str | None:
    *call, needs_backward = variant
    try:
        with torch.set_grad_enabled(bool(needs_backward)):
            arguments, truth, states = CHECKS[operation]
            tensors, options = arguments(*call)
            if states:
                truth, candidate = _on_copies(states, truth), _on_copies(states, candidate)
            expected = _results(partial(truth, **options), tensors, "cpu")
            actual = _results(partial(candidate, **options), tensors, device)
    except Exception as error:  # whatever the kernel's compiler or runtime raises, the answer is not to use it
        return f"its self-check failed ({type(error).__name__}: {error})"
    for got, wanted in zip(actual, expected, strict=True):
        difference = (got - wanted).abs().max().item()
        if not difference <= RELATIVE_TOLERANCE * wanted.abs().max().item():
            return f"its self-check failed (off by {difference:.1e} from the reference)"
    return None


def _scan_arguments(
    state_size: int, groups: int, dt_softplus: int, gated: int, reverse: int
) -> tuple[list[Tensor | None], dict[str, Any]]:
    draw = _Draw()
    channels = groups * CHANNELS_PER_GROUP
    frames = (BATCH, LENGTH, channels)
    dt = draw(*frames) if dt_softplus else draw(*frames).abs()
    A = -draw(channels, state_size).abs()
    B, C = draw(BATCH, LENGTH, groups, state_size), draw(BATCH, LENGTH, groups, state_size)
    z = draw(*frames) if gated else None
    tensors = [draw(*frames), dt, A, B, C, draw(channels), z, draw(channels).abs()]
    return tensors, {"dt_softplus": bool(dt_softplus), "reverse": bool(reverse), "initial_state": None}


def _conv_arguments(width: int, has_bias: int, reverse: int) -> tuple[list[Tensor | None], dict[str, Any]]:
    draw = _Draw()
    x, weight = draw(BATCH, LENGTH, CHANNELS_PER_GROUP), draw(CHANNELS_PER_GROUP, width)
    bias = draw(CHANNELS_PER_GROUP) if has_bias else None
    return [x, weight, bias], {"reverse": bool(reverse), "initial_state": None}


def _state_update_arguments(
    state_size: int, groups: int, dt_softplus: int, gated: int
) -> tuple[list[Tensor | None], dict[str, Any]]:
    sequences, _ = _scan_arguments(state_size, groups, dt_softplus, gated, False)
    x, dt, A, B, C, D, z, dt_bias = sequences
    frames = [None if tensor is None else tensor[:, 0] for tensor in (x, dt, B, C, z)]
    state = _Draw()(BATCH, groups * CHANNELS_PER_GROUP, state_size)
    return [state, *frames[:2], A, *frames[2:4], D, frames[4], dt_bias], {"dt_softplus": bool(dt_softplus)}


def _conv_update_arguments(width: int, has_bias: int) -> tuple[list[Tensor | None], dict[str, Any]]:
    (x, weight, bias), _ = _conv_arguments(width, has_bias, False)
    return [_Draw()(BATCH, width, CHANNELS_PER_GROUP), None if x is None else x[:, -1], weight, bias], {}


def _mixer_step_arguments(width: int, state_size: int, has_norm: int) -> tuple[list[Any], dict[str, Any]]:
    draw = _Draw()
    channels, hidden, rank = CHANNELS_PER_GROUP, 19, 3
    shapes = (
        (2 * channels, hidden),
        (2 * channels,),
        (channels, width),
        (channels,),
        (rank + 2 * state_size, channels),
        (channels, rank),
        (channels,),
        (channels, state_size),
        (channels,),
        (hidden, channels),
        (hidden,),
    )
    states = [draw(BATCH, channels, width), draw(BATCH, channels, state_size)]
    weights = MixerWeights(*(draw(*shape) / 3 for shape in shapes))
    options = {"weights": weights, "norm": Norm(draw(hidden), 1e-5) if has_norm else None}
    return [*states, draw(BATCH, 1, hidden)], options


def _stack_step_arguments(width: int, state_size: int) -> tuple[list[Any], dict[str, Any]]:
    (*states, hidden_states), options = _mixer_step_arguments(width, state_size, True)
    more_states = [state / 2 for state in states]
    blocks = [(options["weights"], options["norm"])] * 2
    return [*states, *more_states, hidden_states], {"blocks": blocks, "norm": options["norm"]}


def _few_rows_linear_arguments(has_bias: int) -> tuple[list[Any], dict[str, Any]]:
    draw = _Draw()
    width = 5 * CHANNELS_PER_GROUP
    return [draw(BATCH, width), draw(LENGTH, width), draw(LENGTH) if has_bias else None], {}


def _cross_scan_arguments(rank: int, dt_softplus: int) -> tuple[list[Tensor | None], dict[str, Any]]:
    draw = _Draw()
    cells, channels = (BATCH, 3, 5), CHANNELS_PER_GROUP
    dt, B, C = (draw(*cells, reference.ROUTES, size) for size in (rank, 1, 1))
    weight, D, bias = draw(reference.ROUTES, channels, rank), draw(reference.ROUTES, channels), draw(4, channels)
    if not dt_softplus:
        dt, weight, bias = dt.abs(), weight.abs(), bias.abs()
    A = -draw(reference.ROUTES, channels, 1).abs()
    return [draw(*cells, channels), dt, A, B, C, D, bias, weight], {"dt_softplus": bool(dt_softplus)}


def _token_layers_arguments(has_norm: int, has_first: int, has_bias: int, has_skip: int) -> tuple[list[Any], Any]:
    draw = _Draw()
    # More tokens than a tile has, and a hidden layer wider than what is done at a time.
    tokens, inputs, hidden, outputs = 75, 21, 101, 19
    norm = NormWeights(draw(inputs), draw(inputs), 1e-5) if has_norm else None
    first = LinearWeights(draw(hidden, inputs), draw(hidden)) if has_first else None
    last = LinearWeights(draw(outputs, hidden if has_first else inputs), draw(outputs) if has_bias else None)
    options = {"last": last, "norm": norm, "first": first, "skip": draw(tokens, outputs) if has_skip else None}
    return [draw(tokens, inputs)], options


def _conv_norm_arguments(kernel: int, stride: int, padding: int, gelu: int) -> tuple[list[Any], dict[str, Any]]:
    draw = _Draw()
    # Rows long enough for a vector of tokens, and more channels than fit into one.
    channels, outputs = 18, 7
    conv = ConvWeights(draw(outputs, channels, kernel, kernel), draw(outputs), stride, padding)
    norm = NormWeights(draw(outputs), draw(outputs), 1e-5)
    return [draw(BATCH, 2 * kernel, 18 * stride + kernel, channels), conv, norm], {"gelu": bool(gelu)}


def _depthwise_conv_arguments(has_bias: int) -> tuple[list[Tensor | None], dict[str, Any]]:
    draw = _Draw()
    bias = draw(CHANNELS_PER_GROUP) if has_bias else None
    return [draw(BATCH, 4, 5, CHANNELS_PER_GROUP), draw(CHANNELS_PER_GROUP, 1, 3, 3), bias], {}


def _on_copies(states: int, function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """An update of its first arguments in place as a function from them to the output and the new states."""

    def run(*tensors: Tensor, **options: Any) -> tuple[Tensor, ...]:
        copies = [state.clone() for state in tensors[:states]]
        return function(*copies, *tensors[states:], **options), *copies

    return run


class _Draw:
    """Normal numbers on the CPU from a generator of its own: the caller's random state stays as it is."""

    def __init__(self) -> None:
        self._generator = torch.Generator("cpu").manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, device="cpu", dtype=torch.float32)


def _results(function: Callable[..., Any], tensors: list[Any], device: str) -> list[Tensor]:
    """Outputs, then gradients of all inputs where gradients are enabled, computed on a device, on the CPU."""
    backward = torch.is_grad_enabled()
    leaves = [t.detach().to(device).requires_grad_(backward) if isinstance(t, Tensor) else t for t in tensors]
    outputs = function(*leaves)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    if not backward:
        return [output.cpu() for output in outputs]
    # The cosine makes the incoming gradient differ from element to element.
    gradients = [torch.cos(torch.arange(o.numel(), dtype=o.dtype, device=device)).view_as(o) for o in outputs]
    inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    results = [*(o.detach() for o in outputs), *torch.autograd.grad(outputs, inputs, gradients)]
    return [result.cpu() for result in results]


CHECKS: dict[str, tuple[Callable[..., Any], Callable[..., Any], int]] = {
    "scan": (_scan_arguments, reference.selective_scan, 0),
    "conv": (_conv_arguments, reference.causal_conv1d_silu, 0),
    "state_update": (_state_update_arguments, reference.selective_state_update, 1),
    "conv_update": (_conv_update_arguments, reference.causal_conv1d_silu_update, 1),
    "mixer_step": (_mixer_step_arguments, reference.mixer_step, 2),
    "stack_step": (_stack_step_arguments, reference.stack_step, 4),
    "few_rows_linear": (_few_rows_linear_arguments, reference.few_rows_linear, 0),
    "token_layers": (_token_layers_arguments, reference.token_layers, 0),
    "depthwise_conv": (_depthwise_conv_arguments, reference.depthwise_conv2d_silu, 0),
    "conv_norm": (_conv_norm_arguments, reference.conv_norm, 0),
    "cross_scan": (_cross_scan_arguments, reference.cross_scan_2d, 0),
}
"""For each operation: a function from its variant to tensors and options, the truth, and how many first tensors it
updates in place."""
