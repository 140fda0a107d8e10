"""What the scores of several folds come to together."""

import math
from collections.abc import Sequence

import numpy as np


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean of the folds' scores, and their standard deviation with one degree of freedom less.

    Args:
        values: One score a fold; the deviation of a single one is NaN.

    Returns:
        Mean and deviation; a score that is not finite (a d-prime of a perfect order) makes the deviation NaN.
    """
    with np.errstate(invalid="ignore"):
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        return float(np.mean(values)), deviation
