"""`hf-audio-mamba benchmark mixer`: the parts of a bidirectional mixer, and the whole against transformers' mixers."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_audio_mamba.commands._benchmark_contestants import Shape, draw_operands
from hf_audio_mamba.commands._benchmark_report import Report, Settings, add_benchmark, new_report
from hf_audio_mamba.commands._benchmark_stock import stock_copy_of_layer
from hf_audio_mamba.commands._benchmark_timing import Contestant, measure_case
from hf_audio_mamba.layers import BidirectionalMamba, frame_orders
from hf_audio_mamba.ops import causal_conv1d_silu, selective_scan

STATE, TAPS, EXPAND = 16, 4, 2


@dataclass(frozen=True)
class Size:
    """Frames and width of the sequence."""

    length: int
    hidden_size: int


FULL, QUICK = Size(3001, 512), Size(20, 32)


def add_parser(benchmarks: Any) -> None:
    """Add `mixer` to the things that can be measured."""
    add_benchmark(benchmarks, "mixer", "a bidirectional mixer and its parts against transformers' mixers", measure)


def measure(settings: Settings) -> Report:
    """Measure the convolution, and the share of the scans in a bidirectional mixer.

    Args:
        settings: Rounds, threads, sizes.
    """
    report = new_report("mixer", settings)
    size = QUICK if settings.quick else FULL
    with torch.no_grad():
        _compare_convolution(report, size)
        _compare_mixer(report, size)
    return report


def _compare_convolution(report: Report, size: Size) -> None:
    from transformers.models.mamba import modeling_mamba

    settings = report.settings
    channels = EXPAND * size.hidden_size
    x = draw_operands(Shape(1, size.length, channels, STATE)).xz[..., :channels]
    draw = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(channels, TAPS, generator=draw), torch.randn(channels, generator=draw)
    theirs = inspect.unwrap(modeling_mamba.causal_conv1d_fn)  # nn.Conv1d's function, cut, then SiLU

    def transposed() -> Tensor:
        y: Tensor = theirs(x.transpose(1, 2), weight, bias, activation="silu")
        return y.transpose(1, 2)

    name = "torch Conv1d + SiLU, transposed views"
    contestants = [
        Contestant(name, transposed),
        Contestant("numba", lambda: causal_conv1d_silu(x, weight, bias, backend="numba")),
        Contestant("torch", lambda: causal_conv1d_silu(x, weight, bias, backend="torch")),
    ]
    case = measure_case(
        f"convolution + SiLU (1, {size.length}, {channels}), {TAPS} taps",
        contestants,
        repeats=settings.repeats,
        shortest_s=settings.shortest_s,
    )
    report.add_case(case, reference=name)
    report.add_ratio("conv + SiLU over torch", case, name, "numba")


def _compare_mixer(report: Report, size: Size) -> None:
    settings = report.settings
    sizes = {"state_size": STATE, "conv_kernel": TAPS, "expand": EXPAND}
    torch.manual_seed(0)
    layer = BidirectionalMamba(size.hidden_size, **sizes)
    for mixer in (layer.forward_mixer, layer.backward_mixer):
        mixer.init_weights()
    stock = stock_copy_of_layer(layer, hidden_size=size.hidden_size, **sizes)
    frames = torch.randn(1, size.length, size.hidden_size)
    ours, theirs, scans = "bidirectional mixer", "two mixers of transformers", "its two scans"
    orders = frame_orders(size.length)
    contestants = [
        Contestant(ours, lambda: layer(frames, orders)),
        Contestant(scans, _two_scans(size)),
        Contestant(theirs, lambda: stock(frames)),
    ]
    case = measure_case(
        f"bidirectional mixer (1, {size.length}, {size.hidden_size})",
        contestants,
        repeats=settings.repeats,
        shortest_s=settings.shortest_s,
    )
    report.add_case(case, reference=theirs)
    name = f"scan's share of a bidirectional mixer, d={size.hidden_size}, L={size.length}"
    report.add_ratio(name, case, scans, ours, unit="%")
    report.add_ratio("transformers' mixers over a bidirectional mixer", case, theirs, ours)


def _two_scans(size: Size) -> Callable[[], object]:
    """The scans of both directions, on inputs laid out as in the mixer; no results to compare."""
    operands = draw_operands(Shape(1, size.length, EXPAND * size.hidden_size, STATE))
    o = operands

    def call() -> None:
        for reverse in (False, True):
            selective_scan(o.x, o.dt, o.A, *o.B_and_C, o.D, o.z, o.dt_bias, reverse=reverse)

    return call
