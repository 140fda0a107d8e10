"""What every data set of this package is once loaded: clips with labels, in named splits.

A loader (`load_audio_folder`, `load_hub_dataset`, `synthetic_notes`) reads some layout into lists of `Clip`
and hands them to `build_audio_dataset`, which derives the label names and refuses what would make a reported
figure meaningless.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hf_audio_mamba.errors import DataError, UsageError

Waveform: TypeAlias = NDArray[Any]
Label: TypeAlias = str | tuple[str, ...] | tuple[float, ...]
AudioSource: TypeAlias = bytes | Waveform | Callable[[], bytes | Waveform]

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")


@dataclass(frozen=True, eq=False)
class Clip:
    """One recording and its label.

    Exactly one of `path` and `audio` is set.

    Attributes:
        name: Unique within its split, shown in messages and prediction files: usually the path relative to
            the data folder.
        label: A class name, the names of all classes that apply (possibly none), or one number per regression
            target.
        path: Audio file.
        audio: An encoded file as bytes, a waveform of shape `(samples,)`, or a function without arguments
            that returns either, for audio that is rendered or fetched only when it is needed.
        sampling_rate: Of a waveform, in Hz; `None` for files, which carry their own.
    """

    name: str
    label: Label
    path: Path | None = None
    audio: AudioSource | None = field(default=None, repr=False)
    sampling_rate: int | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.audio is None):
            raise UsageError(f"clip {self.name!r} needs either a path or audio, and not both")

    def content(self) -> bytes | Waveform:
        """The encoded file, or the waveform `(samples,)` at `sampling_rate`.

        Raises:
            DataError: If the file cannot be read.
        """
        if self.path is not None:
            try:
                return self.path.read_bytes()
            except OSError as error:
                raise DataError(f"cannot read {self.path}: {error.strerror or error}") from error
        assert self.audio is not None
        return self.audio() if callable(self.audio) else self.audio


def content_digest(content: bytes | Waveform, sampling_rate: int | None = None) -> str:
    """Hexadecimal BLAKE2b digest (128 bit) of an encoded file or of a waveform, its type and its rate."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(content, bytes):
        digest.update(content)
    else:
        digest.update(f"{content.dtype.str} {content.shape} {sampling_rate}".encode())
        digest.update(np.ascontiguousarray(content).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class AudioDataset:
    """Clips in splits, with the names that turn labels into numbers.

    Attributes:
        name: Shown in the model card.
        splits: Clips by split: `train` always, `validation` and `test` where the data has them.
        label_names: Classes, sorted (as numbers if all are numbers); for regression the target columns in the
            order given.
        problem_type: One of `PROBLEM_TYPES`, with transformers' meaning.
        info: How the data was read, one line each, for logs and the model card.
        label_range: Declared limits `(low, high)` of regression targets, or `None`.
    """

    name: str
    splits: dict[str, list[Clip]]
    label_names: list[str]
    problem_type: str
    info: dict[str, str]
    label_range: tuple[float, float] | None = None

    def encode(self, clip: Clip) -> int | list[float]:
        """The target of a clip as a model takes it.

        Returns:
            A class index; for multi-label one 0 or 1 per class; for regression one number per target, mapped
            from `label_range` to [0, 1] where a range is declared (the range of a sigmoid head), as it is
            otherwise.

        Raises:
            DataError: If the clip has a label that the data set does not know.
        """
        if self.problem_type == "regression":
            return [self._scale(float(value)) for value in clip.label]
        try:
            if isinstance(clip.label, str):
                return self.label_names.index(clip.label)
            classes = {self.label_names.index(str(name)) for name in clip.label}
        except ValueError as error:
            raise DataError(f"clip {clip.name!r} has the label {clip.label!r}, unknown to {self.name}") from error
        return [float(index in classes) for index in range(len(self.label_names))]

    def decode_regression(self, values: Sequence[float]) -> list[float]:
        """Undo the scaling of `encode`: model outputs to the unit of the labels."""
        if self.label_range is None:
            return [float(value) for value in values]
        low, high = self.label_range
        return [low + float(value) * (high - low) for value in values]

    def _scale(self, value: float) -> float:
        if self.label_range is None:
            return value
        low, high = self.label_range
        return (value - low) / (high - low)


def sort_labels(names: Iterable[str]) -> list[str]:
    """Unique names in order: as numbers if all of them are numbers, alphabetically otherwise."""
    unique = set(names)
    try:
        numbers = {name: float(name) for name in unique}
    except ValueError:
        return sorted(unique)
    if not all(math.isfinite(number) for number in numbers.values()):
        return sorted(unique)
    return sorted(unique, key=lambda name: (numbers[name], name))


def check_problem_type(problem_type: str) -> None:
    """Raise `UsageError` unless `problem_type` is one of `PROBLEM_TYPES`."""
    if problem_type not in PROBLEM_TYPES:
        raise UsageError(f"problem_type {problem_type!r} is not one of {', '.join(PROBLEM_TYPES)}")
