"""From lists of clips to an `AudioDataset`, refusing what would make a reported figure meaningless."""

import math
import os
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from hf_audio_mamba.data.audio_dataset import (
    AudioDataset,
    Clip,
    check_problem_type,
    content_digest,
    sort_labels,
)
from hf_audio_mamba.errors import DataError, UsageError

SPLITS = ("train", "validation", "test")
UNSEEN_LABELS = ("error", "keep", "drop")
DUPLICATES = ("error", "drop")


def build_audio_dataset(
    name: str,
    splits: dict[str, list[Clip]],
    *,
    problem_type: str,
    info: dict[str, str],
    target_names: Sequence[str] = (),
    label_range: tuple[float, float] | None = None,
    unseen_labels: str = "error",
    duplicates: str = "error",
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
        duplicates: What to do about audio that is in two splits: `error`, or `drop` it from the one that
            comes first of train, validation and test, so that the test split stays whole.

    Raises:
        DataError: No training clip; one class only; a class that training does not have; a label outside of
            its range; the same audio in two splits.
        UsageError: An unknown problem type or choice, or a label range that is empty or does not belong to a
            regression.
    """
    check_problem_type(problem_type)
    _check_choice("unseen_labels", unseen_labels, UNSEEN_LABELS)
    _check_choice("duplicates", duplicates, DUPLICATES)
    info = dict(info)
    splits = {split: list(splits[split]) for split in SPLITS if splits.get(split)}
    if "train" not in splits:
        raise DataError(f"{name} has no training clips")
    _treat_shared_audio(name, splits, duplicates, info)
    if problem_type == "regression":
        label_names = list(target_names)
        _check_range(name, splits, label_range)
    else:
        if label_range is not None:
            raise UsageError("label_range belongs to problem_type='regression'")
        known = {label for clip in splits["train"] for label in _classes(clip)}
        _check_known(name, known, problem_type)
        label_names = sort_labels(known | _treat_unseen(name, splits, known, unseen_labels, info))
    info["clips"] = ", ".join(f"{split} {len(clips)}" for split, clips in splits.items())
    return AudioDataset(name, splits, label_names, problem_type, info, label_range)


def _check_choice(name: str, choice: str, choices: tuple[str, ...]) -> None:
    if choice not in choices:
        raise UsageError(f"{name} {choice!r} is not one of {', '.join(choices)}")


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
    unseen = {split: [clip for clip in clips if set(_classes(clip)) - known] for split, clips in splits.items()}
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


def _shared_audio(splits: dict[str, list[Clip]]) -> list[tuple[str, Clip, str, Clip]]:
    """Clips with the content of a clip of a later split: `(split, clip, later split, its clip)`.

    Only clips whose size occurs in several splits are read, so that a large data set stays quick.
    """
    by_size: dict[int, list[tuple[str, Clip]]] = defaultdict(list)
    for split in reversed(SPLITS):
        for clip in splits.get(split, ()):
            size = _content_size(clip)
            if size is not None:
                by_size[size].append((split, clip))
    shared = []
    for candidates in by_size.values():
        if len({split for split, _ in candidates}) == 1:
            continue
        seen: dict[str, tuple[str, Clip]] = {}
        for split, clip in candidates:
            later_split, later = seen.setdefault(content_digest(clip.content(), clip.sampling_rate), (split, clip))
            if later_split != split:
                shared.append((split, clip, later_split, later))
    return shared


def _treat_shared_audio(name: str, splits: dict[str, list[Clip]], choice: str, info: dict[str, str]) -> None:
    """Refuse audio that is in two splits, or drop it from the earlier one."""
    shared = _shared_audio(splits)
    if not shared:
        return
    split, clip, later_split, later = shared[0]
    if choice == "error":
        more = f" (and {len(shared) - 1} more)" if len(shared) > 1 else ""
        raise DataError(
            f"{name}: the same audio is in two splits, {clip.name!r} in {split} and {later.name!r} in {later_split}"
            f"{more}, so a score on {later_split} would be wrong. Remove one of them, or choose duplicates='drop' to "
            "leave it out of the split that comes first of train, validation, test."
        )
    for split in {entry[0] for entry in shared}:
        dropped = {entry[1] for entry in shared}
        splits[split] = [clip for clip in splits[split] if clip not in dropped]
        if not splits[split]:
            raise DataError(f"{name}: every clip of the {split} split is also in a later split")
    pairs = ", ".join(f"{clip.name} (as {later.name} in {split})" for _, clip, split, later in shared[:3])
    info["duplicates"] = f"audio found in two splits is left out of the earlier one: {len(shared)}, {pairs}"
    if len(shared) > 3:
        info["duplicates"] += ", ..."
