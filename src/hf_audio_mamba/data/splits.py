"""Who trains and who is tested: split names, folds, and a validation part where the data has none."""

import random
from collections import defaultdict

from hf_audio_mamba.data.audio_dataset import Clip, sort_labels
from hf_audio_mamba.errors import DataError, UsageError

# The names that `datasets` recognises for folders, so that a folder means the same to both.
SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}

NO_FOLD = "none"
"""As a validation fold: no fold is set aside, for final runs with settings that are chosen already."""


def split_by_fold(
    folds: dict[str, list[Clip]], fold: int | str, validation_fold: int | str | None, where: str
) -> tuple[dict[str, list[Clip]], str]:
    """Splits of one round of a cross-validation.

    Args:
        folds: Clips by the text of the fold column.
        fold: The held-out fold: becomes the test split.
        validation_fold: Becomes the validation split; by default the fold after `fold`, cyclic, where that
            leaves at least one fold for training; `NO_FOLD` trains on all others.
        where: File, for messages.

    Returns:
        The splits, and a sentence that says which fold went where.

    Raises:
        UsageError: If a fold does not exist or both are the same.
        DataError: If there are fewer than two folds.
    """
    names = sort_labels(folds)
    if len(names) < 2:
        raise DataError(f"{where}: the fold column has only one value, {names[0]!r}; cross-validation needs two")
    test = _known_fold(str(fold), names, where)
    if validation_fold == NO_FOLD:
        validation = ""
    elif validation_fold is not None:
        validation = _known_fold(str(validation_fold), names, where)
        if validation == test:
            raise UsageError(f"validation_fold and fold are both {test}; the test fold must not choose the model")
        if len(names) == 2:
            raise UsageError(
                f"{where} has two folds: with one for testing and one for validation none is left to train"
            )
    elif len(names) > 2:
        validation = names[(names.index(test) + 1) % len(names)]
    else:
        validation = ""
    train = [name for name in names if name not in (test, validation)]
    splits = {
        "train": [clip for name in train for clip in folds[name]],
        "validation": folds.get(validation, []),
        "test": folds[test],
    }
    said = f"test on fold {test}, validation on fold {validation}" if validation else f"test on fold {test}"
    return splits, f"{said}, training on {', '.join(train)}"


def _known_fold(fold: str, names: list[str], where: str) -> str:
    if fold not in names:
        raise UsageError(f"fold {fold!r} is not in {where}; its folds are {', '.join(names)}")
    return fold


def hold_out_validation(clips: list[Clip], fraction: float, seed: int) -> tuple[list[Clip], list[Clip]]:
    """Take a seeded part of the training clips for validation, the same fraction of every class.

    Each class that has two clips gives at least one and keeps at least one. Multi-label and regression clips
    are drawn without regard to their labels.

    Args:
        clips: Training clips.
        fraction: Of them, at least 0 (no validation) and at most 0.5.
        seed: Equal seeds draw equal clips.

    Returns:
        Training clips and validation clips, each in their old order.

    Raises:
        UsageError: If the fraction is outside of its range.
    """
    if not 0.0 <= fraction <= 0.5:
        raise UsageError(f"validation_fraction {fraction} must be between 0 and 0.5")
    if fraction == 0.0:
        return clips, []
    strata: dict[str, list[int]] = defaultdict(list)
    for index, clip in enumerate(clips):
        strata[clip.label if isinstance(clip.label, str) else ""].append(index)
    generator = random.Random(seed)
    held_out: set[int] = set()
    for label in sorted(strata):
        members = strata[label]
        if len(members) > 1:
            held_out.update(generator.sample(members, max(1, round(fraction * len(members)))))
    train = [clip for index, clip in enumerate(clips) if index not in held_out]
    return train, [clip for index, clip in enumerate(clips) if index in held_out]


def describe_hold_out(validation: list[Clip], fraction: float, seed: int) -> dict[str, str]:
    """Entry for `AudioDataset.info` that says how `hold_out_validation` drew; none if it drew nothing."""
    if not validation:
        return {}
    return {"validation": f"{fraction:.0%} of the training clips, held out at random with seed {seed}"}
