"""What every data set of this package is once loaded: clips with labels, in named splits.

A loader (`load_audio_folder`, `load_hub_dataset`, `synthetic_notes`) reads some layout into lists of `Clip`
and hands them to `build_audio_dataset`, which derives the label names and refuses what would make a reported
figure meaningless.
"""

import hashlib
import math
import os
from collections import defaultdict
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
SPLITS = ("train", "validation", "test")
UNSEEN_LABELS = ("error", "keep", "drop")


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
            raise DataError(
                f"clip {clip.name!r} has the label {clip.label!r}, unknown to {self.name}"
            ) from error
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


def build_audio_dataset(
    name: str,
    splits: dict[str, list[Clip]],
    *,
    problem_type: str,
    info: dict[str, str],
    target_names: Sequence[str] = (),
    label_range: tuple[float, float] | None = None,
    unseen_labels: str = "error",
) -> AudioDataset:
    """Derive the label names and check the data set as a whole.

    Args:
        name: Of the data set.
        splits: Clips by split; empty splits are dropped.
        problem_type: One of `PROBLEM_TYPES`.
        info: Lines about how the data was read; the sizes of the splits are added.
        target_names: Regression only: the names of the targets.
        label_range: Regression only: limits that every target must lie within.
        unseen_labels: What to do about validation and test clips of a class that training does not have:
            `error`; `keep` them, so that they count as mistakes; or `drop` them. `info` says what was done.

    Raises:
        DataError: No training clip; one class only; a class that training does not have; a label outside of
            its range; the same audio in two splits.
        UsageError: An unknown problem type or choice, or a label range that is empty or does not belong to a
            regression.
    """
    check_problem_type(problem_type)
    if unseen_labels not in UNSEEN_LABELS:
        raise UsageError(f"unseen_labels {unseen_labels!r} is not one of {', '.join(UNSEEN_LABELS)}")
    info = dict(info)
    splits = {split: list(splits[split]) for split in SPLITS if splits.get(split)}
    if "train" not in splits:
        raise DataError(f"{name} has no training clips")
    if problem_type == "regression":
        label_names = list(target_names)
        _check_range(name, splits, label_range)
    else:
        if label_range is not None:
            raise UsageError("label_range belongs to problem_type='regression'")
        known = {label for clip in splits["train"] for label in _classes(clip)}
        _check_known(name, known, problem_type)
        label_names = sort_labels(known | _treat_unseen(name, splits, known, unseen_labels, info))
    _refuse_leaks(name, splits)
    info["clips"] = ", ".join(f"{split} {len(clips)}" for split, clips in splits.items())
    return AudioDataset(name, splits, label_names, problem_type, info, label_range)


def _classes(clip: Clip) -> tuple[str, ...]:
    return (clip.label,) if isinstance(clip.label, str) else tuple(str(name) for name in clip.label)


def _check_known(name: str, known: set[str], problem_type: str) -> None:
    if not known:
        raise DataError(f"{name}: no training clip has any label")
    if len(known) == 1 and problem_type == "single_label_classification":
        raise DataError(
            f"{name}: all training clips have the same label {min(known)!r}; there is nothing to tell apart"
        )


def _treat_unseen(
    name: str, splits: dict[str, list[Clip]], known: set[str], choice: str, info: dict[str, str]
) -> set[str]:
    """Refuse, keep or drop clips with labels unknown to training; the labels that are kept in addition."""
    unseen = {
        split: [clip for clip in clips if set(_classes(clip)) - known] for split, clips in splits.items()
    }
    labels = {label for clips in unseen.values() for clip in clips for label in _classes(clip)} - known
    if not labels:
        return set()
    counts = " and ".join(f"{len(clips)} {split}" for split, clips in unseen.items() if clips)
    said = f"{counts} clips have labels that training never sees: {', '.join(sort_labels(labels))}"
    if choice == "error":
        first = next(clip.name for clips in unseen.values() for clip in clips)
        raise DataError(
            f"{name}: {said} (first: {first!r}). Move some of them to the training split, or choose with "
            "unseen_labels to 'keep' them, as certain mistakes, or to 'drop' them."
        )
    if choice == "keep":
        info["unseen labels"] = f"{said}; they are kept and count as mistakes"
        return labels
    for split, clips in unseen.items():
        dropped = set(clips)
        splits[split] = [clip for clip in splits[split] if clip not in dropped]
        if not splits[split]:
            raise DataError(f"{name}: no clip of the {split} split has a label that training knows")
    info["unseen labels"] = f"{said}; they are left out"
    return set()


def _check_range(name: str, splits: dict[str, list[Clip]], label_range: tuple[float, float] | None) -> None:
    if label_range is None:
        return
    low, high = label_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"label_range ({low}, {high}) must be two finite numbers, the lower one first")
    for clip in (clip for clips in splits.values() for clip in clips):
        if outside := [value for value in clip.label if not low <= float(value) <= high]:
            raise DataError(f"{name}: {clip.name!r} has the label {outside[0]}, outside of [{low}, {high}]")


def _content_size(clip: Clip) -> int | None:
    """Bytes of a clip's content where they are known without reading it, else `None`."""
    if clip.path is not None:
        try:
            return os.stat(clip.path).st_size
        except OSError as error:
            raise DataError(f"cannot read {clip.path}: {error.strerror or error}") from error
    if callable(clip.audio):
        return None
    return len(clip.audio) if isinstance(clip.audio, bytes) else int(np.asarray(clip.audio).nbytes)


def _refuse_leaks(name: str, splits: dict[str, list[Clip]]) -> None:
    """Refuse audio that is in two splits. Only clips of equal size are read: large data sets stay quick."""
    by_size: dict[int, list[tuple[str, Clip]]] = defaultdict(list)
    for split, clips in splits.items():
        for clip in clips:
            size = _content_size(clip)
            if size is not None:
                by_size[size].append((split, clip))
    for candidates in by_size.values():
        if len({split for split, _ in candidates}) == 1:
            continue
        seen: dict[str, tuple[str, Clip]] = {}
        for split, clip in candidates:
            digest = content_digest(clip.content(), clip.sampling_rate)
            first_split, first = seen.setdefault(digest, (split, clip))
            if first_split != split:
                raise DataError(
                    f"{name}: the same audio is in two splits, {first.name!r} in {first_split} and "
                    f"{clip.name!r} in {split}, so a score on {split} would be too good. Remove one of them."
                )
