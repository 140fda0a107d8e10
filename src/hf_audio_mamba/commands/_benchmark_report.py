"""What the benchmarks have in common: options, the machine's description, the table and the JSON object."""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from hf_audio_mamba.commands._benchmark_timing import Case, Quantity, quartiles
from hf_audio_mamba.errors import OutputError
from hf_audio_mamba.ops import cpu_target, numba_cpu

LARGEST_DIFFERENCE = 1e-3
"""Relative difference beyond which two float32 results are not the same computation."""

_STANDARD_OUTPUT = "-"


@dataclass(frozen=True)
class Settings:
    """Options of a benchmark.

    Attributes:
        repeats: Rounds in which the contestants take turns.
        threads: Threads that torch and the kernels may use.
        quick: Whether to use tiny shapes, which show that everything runs and say nothing about speed.
    """

    repeats: int
    threads: int
    quick: bool

    @property
    def shortest_s(self) -> float:
        """CPU seconds that a contestant shall work in a round."""
        return 0.0 if self.quick else 0.05


@dataclass(frozen=True)
class Row:
    """One contestant's result in one comparison.

    Attributes:
        case: The comparison.
        contestant: Who.
        cpu_ms: Median CPU time of a call in ms.
        cpu_ms_low: First quartile; None for a single sample.
        cpu_ms_high: Third quartile.
        wall_ms: Median time of a call on the clock in ms.
        cpu_ms_samples: All samples of CPU time, in the order of the rounds.
        calls: Calls in a sample.
        difference: Largest difference from the results of the case's reference, relative to their largest value.
    """

    case: str
    contestant: str
    cpu_ms: float
    cpu_ms_low: float | None
    cpu_ms_high: float | None
    wall_ms: float
    cpu_ms_samples: list[float]
    calls: int
    difference: float | None


@dataclass(frozen=True)
class MemoryRow:
    """Memory in MiB that one call needs beyond its inputs, its results included; None where it cannot be measured."""

    case: str
    contestant: str
    extra_mib: float | None


@dataclass(frozen=True)
class Figure:
    """A number that the benchmark is run for.

    Attributes:
        name: What it is.
        case: The comparison whose rows it follows from; None if there is none.
        formula: How it follows from the rows.
        value: The number; None if a contestant is missing or the divisor is 0.
        low: First quartile of the number over the rounds; None for a single round.
        high: Third quartile.
        unit: `"x"` for a ratio, `"%"`, or `"s"` of CPU time.
    """

    name: str
    case: str | None
    formula: str
    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = "x"


@dataclass
class Report:
    """Everything that one benchmark has found."""

    benchmark: str
    settings: Settings
    environment: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    memory: list[MemoryRow] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_case(self, case: Case, *, reference: str | None = None) -> None:
        """Add the rows of a comparison; `reference` names the contestant whose results the others should have."""
        for name, samples in case.samples.items():
            difference = None if reference is None else case.difference(name, reference)
            low, high = (None if q is None else 1000 * q for q in quartiles(samples.cpu_s))
            self.rows.append(
                Row(
                    case=case.name,
                    contestant=name,
                    cpu_ms=1000 * statistics.median(samples.cpu_s),
                    cpu_ms_low=low,
                    cpu_ms_high=high,
                    wall_ms=1000 * statistics.median(samples.wall_s),
                    cpu_ms_samples=[1000 * value for value in samples.cpu_s],
                    calls=samples.calls,
                    difference=difference,
                )
            )

    def add_ratio(self, name: str, case: Case, dividend: str, divisor: str, unit: str = "x") -> None:
        """Add the ratio of two contestants' CPU times, as a factor or with the unit `"%"`."""
        self.add_figure(name, case.name, f"{dividend} / {divisor}", case.ratio(dividend, divisor), unit)

    def add_figure(self, name: str, case: str | None, formula: str, quantity: Quantity | None, unit: str = "x") -> None:
        """Add a number, None if it cannot be given; fractions become what their unit says."""
        factor = 100 if unit == "%" else 1
        value, low, high = (
            None if part is None else factor * part
            for part in ((None,) * 3 if quantity is None else (quantity.value, quantity.low, quantity.high))
        )
        self.figures.append(Figure(name, case, formula, value, low, high, unit))

    @property
    def agrees(self) -> bool:
        """Whether all sides computed the same; a NaN is a difference."""
        return all(row.difference is None or row.difference <= LARGEST_DIFFERENCE for row in self.rows)


def add_benchmark(
    benchmarks: Any,
    name: str,
    purpose: str,
    measure: Callable[[Settings], Report],
    *,
    draw: Callable[[Report], Any] | None = None,
) -> None:
    """Add a benchmark with the options that all of them have.

    Args:
        benchmarks: What `add_subparsers` returned.
        name: The word that calls it.
        purpose: Help text.
        measure: Does it.
        draw: Makes a matplotlib figure of the report; adds `--plot FILE`.
    """
    parser = benchmarks.add_parser(name, help=purpose, description=purpose)
    parser.add_argument("--repeats", type=positive_int, default=5, help="rounds of taking turns (default 5)")
    parser.add_argument("--threads", type=positive_int, default=1, help="threads of torch and the kernels (default 1)")
    parser.add_argument("--quick", action="store_true", help="tiny shapes and one round: whether it runs, not how fast")
    add_json_option(parser)
    if draw is not None:
        parser.add_argument("--plot", metavar="FILE", help="draw the result (PNG)")

    def run(options: argparse.Namespace) -> int:
        settings = Settings(1 if options.quick else options.repeats, options.threads, options.quick)
        with _threads(settings.threads):
            report = measure(settings)
        content = asdict(report) | {"agrees": report.agrees}
        show(describe(report), content, options.json)
        if draw is not None and options.plot is not None:
            from hf_audio_mamba.plots.figure import save_figure

            save_figure(draw(report), options.plot)
        return 0 if report.agrees else 1

    parser.set_defaults(measure=run)


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add `--json [FILE]`."""
    parser.add_argument(
        "--json",
        nargs="?",
        const=_STANDARD_OUTPUT,
        metavar="FILE",
        help="write one JSON object to FILE beside the text, or print it instead of the text if no FILE is given",
    )


def show(text: str, content: dict[str, Any], target: str | None) -> None:
    """Print a result as text or JSON, or write the JSON to a file.

    Args:
        text: The result for people.
        content: The result for programs.
        target: What the option `--json` gave.

    Raises:
        OutputError: If the file cannot be written; the text has been printed by then.
    """
    print(json.dumps(content) if target == _STANDARD_OUTPUT else text)
    if target is not None and target != _STANDARD_OUTPUT:
        try:
            Path(target).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{target}: cannot write the result ({error.strerror}); choose another file") from error


def positive_int(text: str) -> int:
    """An option's value from 1 up."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but is {text}")
    return value


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def new_report(benchmark: str, settings: Settings) -> Report:
    """An empty report that describes this machine."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "numpy")}
    environment: dict[str, Any] = {
        "python": platform.python_version(),
        **versions,
        "processor": _processor(),
        "logical_cpus": os.cpu_count(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    if numba_cpu.unavailable_reason() is None:
        target = cpu_target.cpu_target()
        environment |= {
            "numba": importlib.metadata.version("numba"),
            "numba_cpu": target.name,
            "numba_vector_bits": target.vector_bits,
        }
    return Report(benchmark, settings, environment)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe(report: Report) -> str:
    """The report as text."""
    settings, environment = report.settings, report.environment
    lines = [
        f"benchmark {report.benchmark}: {settings.repeats} round(s), {settings.threads} thread(s)"
        + (", tiny shapes: times mean nothing" if settings.quick else ""),
        ", ".join(f"{name} {value}" for name, value in environment.items() if value is not None),
    ]
    for case in dict.fromkeys([row.case for row in report.rows]):
        lines += ["", *_table(case, [row for row in report.rows if row.case == case])]
    for case in dict.fromkeys([row.case for row in report.memory]):
        lines += ["", f"{case:<44} extra MiB"]
        lines += [
            f"  {row.contestant:<42} {'not measured' if row.extra_mib is None else f'{row.extra_mib:.1f}':>9}"
            for row in report.memory
            if row.case == case
        ]
    if report.figures:
        lines.append("")
    lines += [
        f"{_value(figure):>12}{_spread(figure):<16} {figure.name} = {figure.formula}" for figure in report.figures
    ]
    lines += [f"note: {note}" for note in report.notes]
    if not report.agrees:
        lines.append(f"RESULTS DIFFER by more than {LARGEST_DIFFERENCE:g}")
    return "\n".join(lines)


def _table(case: str, rows: Sequence[Row]) -> list[str]:
    lines = [f"{case:<44} {'CPU ms':>10} {'quartiles':>19} {'wall ms':>10} {'samples':>9} {'difference':>10}"]
    for row in rows:
        spread = "" if row.cpu_ms_low is None else f"{row.cpu_ms_low:.4g} to {row.cpu_ms_high:.4g}"
        difference = "" if row.difference is None else f"{row.difference:.1e}"
        count = f"{len(row.cpu_ms_samples)} x {row.calls}"
        lines.append(
            f"  {row.contestant:<42} {row.cpu_ms:>10.4g} {spread:>19} {row.wall_ms:>10.4g} {count:>9} {difference:>10}"
        )
    return lines


def _value(figure: Figure) -> str:
    return "no value" if figure.value is None else f"{figure.value:.3g} {figure.unit}"


def _spread(figure: Figure) -> str:
    return "" if figure.low is None else f" ({figure.low:.3g} to {figure.high:.3g})"
