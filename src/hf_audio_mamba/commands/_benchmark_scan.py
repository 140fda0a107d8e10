"""`hf-audio-mamba benchmark scan`: the selective scan against transformers, mambapy, plain PyTorch and its floors."""

import statistics
from collections.abc import Sequence
from typing import Any

import torch

from hf_audio_mamba.commands._benchmark_child import extra_mebibytes, first_call_seconds
from hf_audio_mamba.commands._benchmark_contestants import (
    BACKENDS,
    MAMBAPY,
    TRANSFORMERS,
    Shape,
    backward_alone,
    copy_floor,
    draw_operands,
    exponential_floor,
    into_given_memory,
    scan_call,
)
from hf_audio_mamba.commands._benchmark_report import MemoryRow, Report, Settings, add_benchmark, new_report
from hf_audio_mamba.commands._benchmark_timing import Case, Contestant, Quantity, measure_case, quartiles
from hf_audio_mamba.errors import MissingExtraError

LONG = Shape(1, 3001, 1024, 16)
TRAINING = Shape(8, 256, 512, 16)
ONE_STATE = Shape(16, 4096, 192, 1)
QUICK = {LONG: Shape(1, 24, 32, 16), TRAINING: Shape(2, 12, 16, 16), ONE_STATE: Shape(2, 24, 32, 1)}
FIRST_CALLS = 3
"""Pairs of processes that measure the first call; one with --quick."""

_COPY = "copying the same bytes"
_EXPONENTIALS = {"exponentials by torch.exp": torch.exp, "exponentials by torch.exp2": torch.exp2}


def add_parser(benchmarks: Any) -> None:
    """Add `scan` to the things that can be measured."""
    add_benchmark(benchmarks, "scan", "the selective scan against transformers, mambapy and its floors", measure)


def measure(settings: Settings) -> Report:
    """Measure the scan.

    Args:
        settings: Rounds, threads, sizes.
    """
    report = new_report("scan", settings)

    def size(shape: Shape) -> Shape:
        return QUICK[shape] if settings.quick else shape

    _compare_forward(report, size(LONG))
    _compare_training(
        report, size(TRAINING), (TRANSFORMERS, MAMBAPY, *BACKENDS), "forward + backward over transformers"
    )
    _compare_training(report, size(LONG), (MAMBAPY, *BACKENDS), "forward + backward over mambapy")
    for shape in (size(LONG), size(ONE_STATE)):
        _compare_with_floors(report, shape)
    _compare_backward(report, size(LONG))
    _compare_memory(report, size(LONG))
    _time_first_call(report, size(LONG))
    return report


def _contestants(report: Report, names: Sequence[str], shape: Shape, *, train: bool) -> list[Contestant]:
    """Those that are installed; a note tells of the others."""
    contestants = []
    for name in names:
        try:
            call = scan_call(name, draw_operands(shape), train=train)
        except MissingExtraError as error:
            if str(error) not in report.notes:
                report.notes.append(str(error))
        else:
            contestants.append(Contestant(name, call, slow=train and name == TRANSFORMERS))
    return contestants


def _measured(report: Report, name: str, contestants: Sequence[Contestant], reference: str | None = None) -> Case:
    settings = report.settings
    case = measure_case(name, contestants, repeats=settings.repeats, shortest_s=settings.shortest_s)
    report.add_case(case, reference=reference)
    return case


def _compare_forward(report: Report, shape: Shape) -> None:
    contestants = _contestants(report, (TRANSFORMERS, MAMBAPY, *BACKENDS), shape, train=False)
    case = _measured(report, f"forward {shape}", contestants, TRANSFORMERS)
    for name, divisor in (
        ("forward over transformers' loop", "numba"),
        ("torch backend over transformers' forward", "torch"),
    ):
        report.add_ratio(f"{name}, {shape}", case, TRANSFORMERS, divisor)


def _compare_training(report: Report, shape: Shape, names: Sequence[str], figure: str) -> None:
    contestants = _contestants(report, names, shape, train=True)
    # Without the reference's own scan the torch backend has to do as what the others are compared with.
    reference = TRANSFORMERS if TRANSFORMERS in names else "torch"
    case = _measured(report, f"forward + backward {shape}", contestants, reference)
    report.add_ratio(f"{figure}, {shape}", case, names[0], "numba")


def _compare_with_floors(report: Report, shape: Shape) -> None:
    """Compare with what no kernel can avoid: its memory traffic, and one exponential for each update of a state.

    The rate of exponentials is torch.exp's, and in a second ratio the higher one of torch's two functions: by which
    library torch computes `exp` depends on the processor's maker, and where it is the slow one, a kernel can pass for
    faster than its floor.
    """
    kernel = "numba, output given"
    contestants = [
        Contestant(kernel, into_given_memory(draw_operands(shape))),
        Contestant(_COPY, copy_floor(shape)),
        *(Contestant(name, exponential_floor(shape, function)) for name, function in _EXPONENTIALS.items()),
    ]
    case = _measured(report, f"kernel and floors {shape}", contestants)

    def median(name: str) -> float:
        return statistics.median(case.samples[name].cpu_s)

    figure = f"kernel over the larger floor, N={shape.state}"
    for title, exponentials in (
        (figure, "exponentials by torch.exp"),
        (f"{figure}, fastest exponential", min(_EXPONENTIALS, key=median)),
    ):
        report.add_ratio(title, case, kernel, max(_COPY, exponentials, key=median))


def _compare_backward(report: Report, shape: Shape) -> None:
    forward, backward = "numba forward", "numba backward"
    contestants = [
        Contestant(forward, scan_call("numba", draw_operands(shape), train=False)),
        Contestant(backward, backward_alone(draw_operands(shape))),
    ]
    case = _measured(report, f"backward alone {shape}", contestants)
    report.add_ratio("backward over forward, kernels", case, backward, forward)


def _compare_memory(report: Report, shape: Shape) -> None:
    case = f"extra memory of the forward {shape}"
    found: dict[str, float | None] = {}
    smallest = Shape(1, 1, 1, 1)  # whether it is installed is all that counts here; the work is another process's
    for contestant in _contestants(report, (TRANSFORMERS, MAMBAPY, *BACKENDS), smallest, train=False):
        found[contestant.name] = extra_mebibytes(contestant.name, shape, report.settings.threads)
        report.memory.append(MemoryRow(case, contestant.name, found[contestant.name]))
    ours, theirs = found["numba"], found[TRANSFORMERS]
    report.add_figure(
        f"extra memory of transformers' forward over ours, L={shape.length}",
        case,
        f"{TRANSFORMERS} / numba",
        None if not ours or theirs is None else Quantity(theirs / ours, None, None),
    )


def _time_first_call(report: Report, shape: Shape) -> None:
    pairs = [
        first_call_seconds(shape, report.settings.threads) for _ in range(1 if report.settings.quick else FIRST_CALLS)
    ]
    for name, times in zip(("cold", "warm"), zip(*pairs, strict=True), strict=True):
        cpu_s = [cpu for cpu, _ in times]
        wall = statistics.median(wall for _, wall in times)
        report.add_figure(
            f"first call after import, {name} cache",
            None,
            f"median CPU time of {len(cpu_s)} process(es); {wall:.2f} s on the clock",
            Quantity(statistics.median(cpu_s), *quartiles(cpu_s)),
            unit="s",
        )
