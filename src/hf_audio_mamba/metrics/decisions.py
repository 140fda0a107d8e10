"""Scores of decisions: which class, or which labels, a model says."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def _counts(references: ArrayLike, predictions: ArrayLike) -> tuple[Array, Array, Array]:
    """Right decisions, decisions for, and occurrences of each class: three arrays `(classes,)`.

    All metrics of a classification follow from these, and a bootstrap needs them a thousand times.
    """
    truth, guess = np.asarray(references), np.asarray(predictions)
    if truth.ndim == 2:
        return (truth * guess).sum(axis=0), guess.sum(axis=0), truth.sum(axis=0)
    classes = int(max(truth.max(initial=0), guess.max(initial=0))) + 1
    right, guessed, occurring = (
        np.bincount(indices, minlength=classes) for indices in (truth[truth == guess], guess, truth)
    )
    return right, guessed, occurring


def accuracy(references: ArrayLike, predictions: ArrayLike) -> float:
    """Share of clips whose class index is right, 0 to 1; both `(clips,)`."""
    right, _, occurring = _counts(references, predictions)
    return float(right.sum() / occurring.sum())


def balanced_accuracy(references: ArrayLike, predictions: ArrayLike) -> float:
    """Mean recall over the classes that occur in the references, 0 to 1; both `(clips,)`."""
    right, _, occurring = _counts(references, predictions)
    present = occurring > 0
    return float((right[present] / occurring[present]).mean())


def f1(references: ArrayLike, predictions: ArrayLike, *, average: str) -> float:
    """F1, 0 to 1; 0 where nothing occurs and nothing was predicted.

    Args:
        references: Class indices `(clips,)` or indicators `(clips, labels)`.
        predictions: In the same form.
        average: `"macro"` (mean over the classes that occur in the references) or `"micro"` (over all decisions).
    """
    right, guessed, occurring = _counts(references, predictions)
    if average == "micro":
        return float(2 * right.sum() / max(guessed.sum() + occurring.sum(), 1))
    present = occurring > 0
    if not present.any():
        return 0.0
    return float((2 * right[present] / (guessed[present] + occurring[present])).mean())
