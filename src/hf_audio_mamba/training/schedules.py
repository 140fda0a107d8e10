"""Learning-rate schedules that count in epochs, as the recipes of audio tagging do.

Each is a factor of the highest learning rate as a function of the step alone, so a resumed run goes on with exactly the
rates of one that was not interrupted. Their parameters are given by `--lr_scheduler_kwargs`; `--warmup_steps` is laid
over all of them. Epochs are counted from 0.

Sources: `htsat`, Chen et al. 2022 (HTS-AT), training code; `epoch_decay`, Gong et al. 2021 (Audio Spectrogram
Transformer), training code, which Audio Mamba (Erol et al. 2024) shares.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from itertools import pairwise
from typing import Any

from transformers import TrainingArguments

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.training.assignments import check_names

_OPTION = "--lr_scheduler_kwargs"


@dataclass(frozen=True, kw_only=True)
class EpochSchedule:
    """What all schedules have in common: warm-up, and how long an epoch is.

    Attributes:
        warmup_stair: Steps over which warm-up stays at one rate; 1 raises it at every step.
        warmup_start: Factor at the first step of warm-up, in [0, 1].
        steps_per_epoch: Optimiser steps of an epoch; needed only where the data has no length.
    """

    warmup_stair: int = 1
    warmup_start: float = 0.0
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        _check_counts("warmup_stair", [self.warmup_stair], at_least=1)
        if self.steps_per_epoch is not None:
            _check_counts("steps_per_epoch", [self.steps_per_epoch], at_least=1)
        _check_factors("warmup_start", [self.warmup_start])
        if self.warmup_start > 1:
            raise UsageError(f"{_OPTION}: warmup_start is {self.warmup_start}, but must be at most 1.")

    def factor(self, epoch: int) -> float:
        """Factor of the highest learning rate in an epoch, without warm-up."""
        raise NotImplementedError

    def at_step(self, steps_per_epoch: int, warmup_steps: int) -> Callable[[int], float]:
        """Factor as a function of the number of optimiser steps done.

        Args:
            steps_per_epoch: Optimiser steps of an epoch.
            warmup_steps: Length of the linear warm-up from `warmup_start`; 0 for none.
        """

        # A function, not an object: torch stores the attributes of objects in checkpoints, and would bring the
        # parameters of an earlier run back.
        def factor(step: int) -> float:
            value = self.factor(step // steps_per_epoch)
            if step >= warmup_steps:
                return value
            done = step // self.warmup_stair * self.warmup_stair / warmup_steps
            return value * (self.warmup_start + (1 - self.warmup_start) * done)

        return factor


@dataclass(frozen=True, kw_only=True)
class HTSATSchedule(EpochSchedule):
    """HTS-AT's steps: up through the rates, one an epoch, and down again where the stated epochs end.

    With rates (a, b, c) and epochs (10, 20, 30): epochs 0, 1, 2 have a, b, c; up to epoch 10 c, up to 20 b, up to 30 a,
    and then max(a * 0.98 ** epoch, 0.03).

    Attributes:
        rates: Factors of the learning rate, the smallest first.
        epochs: Last epoch of each rate on the way down, as many as there are rates.
        decay: Of each epoch after the last of them.
        minimum: Smallest factor of these epochs.
    """

    rates: Sequence[float]
    epochs: Sequence[int] = (10, 20, 30)
    decay: float = 0.98
    minimum: float = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_factors("rates", self.rates)
        _check_factors("decay", [self.decay])
        _check_factors("minimum", [self.minimum])
        _check_counts("epochs", self.epochs, at_least=len(self.rates) - 1)
        _check_same_length("rates", self.rates, "epochs", self.epochs)

    def factor(self, epoch: int) -> float:
        """Factor of the highest learning rate in an epoch."""
        if epoch < len(self.rates):
            return self.rates[epoch]
        passed = bisect_left(self.epochs, epoch)
        if passed == len(self.epochs):
            return max(self.rates[0] * self.decay**epoch, self.minimum)
        return self.rates[-1 - passed]


@dataclass(frozen=True, kw_only=True)
class EpochDecaySchedule(EpochSchedule):
    """The same factor again and again: at epoch `start`, and every so many epochs after it.

    Attributes:
        start: First epoch with a smaller rate, at least 1.
        every: Epochs from one step to the next.
        gamma: Factor of each step.
    """

    start: int
    gamma: float
    every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts("start", [self.start], at_least=1)
        _check_counts("every", [self.every], at_least=1)
        _check_factors("gamma", [self.gamma])

    def factor(self, epoch: int) -> float:
        """Factor of the highest learning rate in an epoch."""
        steps = 0 if epoch < self.start else 1 + (epoch - self.start) // self.every
        return float(self.gamma**steps)


@dataclass(frozen=True, kw_only=True)
class EpochFactorsSchedule(EpochSchedule):
    """Stated factors from stated epochs on; 1 before the first.

    Attributes:
        epochs: First epoch of each factor.
        factors: As many.
    """

    epochs: Sequence[int]
    factors: Sequence[float]

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts("epochs", self.epochs, at_least=1)
        _check_factors("factors", self.factors)
        _check_same_length("factors", self.factors, "epochs", self.epochs)

    def factor(self, epoch: int) -> float:
        """Factor of the highest learning rate in an epoch."""
        passed = bisect_right(self.epochs, epoch)
        return self.factors[passed - 1] if passed else 1.0


EPOCH_SCHEDULES: dict[str, type[EpochSchedule]] = {
    "htsat": HTSATSchedule,
    "epoch_decay": EpochDecaySchedule,
    "epoch_factors": EpochFactorsSchedule,
}
"""Names that `--lr_scheduler_type` takes besides those of Transformers."""


def epoch_schedule(name: str, parameters: Mapping[str, Any] | None) -> EpochSchedule:
    """Build a schedule of `EPOCH_SCHEDULES` from `--lr_scheduler_kwargs`.

    Raises:
        UsageError: If a parameter is unknown, missing or unusable.
    """
    kind = EPOCH_SCHEDULES[name]
    given = dict(parameters or {})
    check_names(given, {item.name for item in fields(kind)}, option=_OPTION)
    missing = [item.name for item in fields(kind) if item.default is MISSING and item.name not in given]
    if missing:
        raise UsageError(f"--lr_scheduler_type {name} needs {', '.join(missing)} in {_OPTION}.")
    return kind(**given)


def epoch_factor(args: TrainingArguments, train_dataset: Any, *, warmup_steps: int) -> Callable[[int], float]:
    """The schedule that training arguments ask for, as factor of the learning rate by optimiser steps done.

    Args:
        args: With a name of `EPOCH_SCHEDULES` as `lr_scheduler_type`.
        train_dataset: Training clips.
        warmup_steps: Length of warm-up.

    Raises:
        UsageError: If the data has no length and no number of steps is given instead.
    """
    schedule = epoch_schedule(args.lr_scheduler_type, args.lr_scheduler_kwargs)
    if schedule.steps_per_epoch is not None:
        return schedule.at_step(schedule.steps_per_epoch, warmup_steps)
    if not hasattr(train_dataset, "__len__"):
        raise UsageError(
            f"--lr_scheduler_type {args.lr_scheduler_type} counts epochs, and the training data does not tell its "
            f"length; give steps_per_epoch in {_OPTION}."
        )
    # As transformers.Trainer counts steps.
    size = args.train_batch_size * args.world_size
    batches = len(train_dataset) // size if args.dataloader_drop_last else -(-len(train_dataset) // size)
    return schedule.at_step(max(-(-batches // args.gradient_accumulation_steps), 1), warmup_steps)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_factors(name: str, values: Any) -> None:
    usable = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
    if not usable or not all(_is_number(value) and value >= 0 for value in values):
        raise UsageError(f"{_OPTION}: {name} must be finite and at least 0, but is {values!r}.")


def _check_counts(name: str, values: Any, *, at_least: int) -> None:
    """Whole numbers that grow."""
    usable = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
    if not usable or not all(isinstance(value, int) and _is_number(value) and value >= at_least for value in values):
        raise UsageError(f"{_OPTION}: {name} must be whole and at least {at_least}, but is {values!r}.")
    if any(later <= earlier for earlier, later in pairwise(values)):
        raise UsageError(f"{_OPTION}: {name} must grow, but is {values!r}.")


def _check_same_length(first: str, first_values: Sequence[Any], second: str, second_values: Sequence[Any]) -> None:
    if len(first_values) != len(second_values):
        raise UsageError(
            f"{_OPTION}: {first} and {second} must be as many, but are {len(first_values)} and {len(second_values)}."
        )
