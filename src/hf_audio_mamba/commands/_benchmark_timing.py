"""Interleaved timing: contestants take turns in one process, and ratios are those of their CPU times."""

import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_LONG_S = 10.0
"""CPU seconds of a first call beyond which it cannot be compilation: no second call is needed to warm up."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contestant:
    """One side of a comparison.

    Attributes:
        name: How it is called in the report.
        call: The work; what it returns in its last call can be compared with the others' results.
        slow: Whether it takes so long that it gets no warm-up and one round only.
    """

    name: str
    call: Callable[[], Any]
    slow: bool = False


@dataclass(frozen=True)
class Samples:
    """Times of one contestant.

    Attributes:
        cpu_s: CPU seconds of one call, one value a round: user and system time of all threads of the process.
        wall_s: The same on the clock.
        calls: Calls in a round, of which each value is the mean.
        result: What the last call returned.
    """

    cpu_s: list[float]
    wall_s: list[float]
    calls: int
    result: Any


@dataclass(frozen=True)
class Quantity:
    """A value with the quartiles of its samples; both None for a single sample."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Case:
    """A comparison: its name, and the samples of its contestants."""

    name: str
    samples: dict[str, Samples]

    def ratio(self, dividend: str, divisor: str) -> Quantity | None:
        """How many times the CPU time of one contestant the other needs.

        Returns:
            Median and quartiles of the ratios round by round; where one side is slow and has a single round, its time
            over the other's median. None if one did not take part.
        """
        if dividend not in self.samples or divisor not in self.samples:
            return None
        above, below = self.samples[dividend].cpu_s, self.samples[divisor].cpu_s
        if len(above) != len(below):
            return Quantity(statistics.median(above) / statistics.median(below), None, None)
        rounds = [a / b for a, b in zip(above, below, strict=True)]
        return Quantity(statistics.median(rounds), *quartiles(rounds))

    def difference(self, name: str, reference: str) -> float | None:
        """Largest difference of the results from a reference's, over the reference's largest value, over all tensors.

        Returns:
            None if one of the two did not take part or is the other, or if there is nothing to compare.
        """
        if name == reference or name not in self.samples or reference not in self.samples:
            return None
        found, expected = (_tensors(self.samples[side].result) for side in (name, reference))
        if not found or not expected:
            return None
        pairs = zip(found, expected, strict=True)
        largest = torch.stack([(a.double() - b.double()).abs().max() / b.double().abs().max() for a, b in pairs])
        return largest.max().item()  # unlike Python's max, this keeps a NaN


def quartiles(values: Sequence[float]) -> tuple[float | None, float | None]:
    """First and third quartile, of the values themselves; None for fewer than two values."""
    if len(values) < 2:
        return None, None
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def measure_case(name: str, contestants: Sequence[Contestant], *, repeats: int, shortest_s: float) -> Case:
    """Time contestants in turns.

    Args:
        name: The comparison's name.
        contestants: Who takes part; all but the slow ones are called once or twice before, which leaves out
            compilation and the filling of caches, and tells how long a call takes.
        repeats: Rounds.
        shortest_s: CPU seconds that each contestant shall work in a round; quick ones are called several times.
    """
    _logger.info("measuring %s", name)
    calls = {c.name: 1 if c.slow else _calls_per_round(c, shortest_s) for c in contestants}
    cpu_s: dict[str, list[float]] = {c.name: [] for c in contestants}
    wall_s: dict[str, list[float]] = {c.name: [] for c in contestants}
    results: dict[str, Any] = {}
    for turn in range(repeats):
        for contestant in contestants:
            if contestant.slow and turn > 0:
                continue
            count = calls[contestant.name]
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(count):
                result = contestant.call()
            cpu_s[contestant.name].append((time.process_time() - cpu) / count)
            wall_s[contestant.name].append((time.perf_counter() - wall) / count)
            results[contestant.name] = result
    samples = {c.name: Samples(cpu_s[c.name], wall_s[c.name], calls[c.name], results[c.name]) for c in contestants}
    return Case(name, samples)


def _calls_per_round(contestant: Contestant, shortest_s: float) -> int:
    start = time.process_time()
    contestant.call()
    if time.process_time() - start > _LONG_S:
        return 1
    start = time.process_time()
    contestant.call()
    return max(1, math.ceil(shortest_s / max(time.process_time() - start, 1e-6)))


def _tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return list(result) if isinstance(result, (list, tuple)) else []
