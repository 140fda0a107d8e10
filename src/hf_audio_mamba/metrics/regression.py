"""Scores of regressions."""

from numpy.typing import ArrayLike
from sklearn.metrics import r2_score


def r2(references: ArrayLike, predictions: ArrayLike) -> float:
    """Coefficient of determination, mean over the outputs, at most 1; both `(clips,)` or `(clips, outputs)`."""
    return float(r2_score(references, predictions, multioutput="uniform_average"))
