"""Scores of audio taggers, which depend on the order of a label's scores over the clips and on nothing else.

Conventions of the AudioSet papers (Gong et al. 2021, "AST: Audio Spectrogram Transformer", section 3.1; Hershey et al.
2017, "CNN Architectures for Large-Scale Audio Classification", section 4): each score is computed label by label and
averaged with equal weights; d-prime is a function of the *mean* AUC. A label without a positive clip has no average
precision, and one without a positive or without a negative clip has no AUC: such labels are left out of the mean, and
`classes_without_positives` and `classes_without_negatives` tell how many they are, since figures over different sets
of labels do not compare.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from sklearn.metrics import average_precision_score, roc_auc_score

from hf_audio_mamba.errors import ShapeError

Array = NDArray[Any]


def _checked(references: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    truth, values = np.asarray(references), np.asarray(scores)
    if truth.ndim != 2 or truth.shape != values.shape:
        raise ShapeError(
            f"references {truth.shape} and scores {values.shape} must both be (clips, labels), with one indicator and "
            "one score for each label of each clip"
        )
    return truth > 0.5, values


def classes_without_positives(references: ArrayLike) -> int:
    """Number of columns of the indicators `(clips, labels)` without a positive clip."""
    return int((~(np.asarray(references) > 0.5).any(axis=0)).sum())


def classes_without_negatives(references: ArrayLike) -> int:
    """Number of columns of the indicators `(clips, labels)` in which every clip is positive."""
    return int((np.asarray(references) > 0.5).all(axis=0).sum())


def mean_average_precision(references: ArrayLike, scores: ArrayLike) -> float:
    """Mean over the labels that occur of the average precision, 0 to 1.

    The average precision is the step-wise sum of (R_n - R_(n-1)) P_n over the thresholds, not a trapezoid.

    Args:
        references: Indicators `(clips, labels)`.
        scores: Logits or probabilities `(clips, labels)`; only their order counts.

    Returns:
        NaN where no label occurs at all.

    Raises:
        ShapeError: If the two are not of the same shape `(clips, labels)`.
    """
    truth, values = _checked(references, scores)
    defined = truth.any(axis=0)
    if not defined.any():
        return math.nan
    return float(average_precision_score(truth[:, defined], values[:, defined], average="macro"))


def mean_roc_auc(references: ArrayLike, scores: ArrayLike) -> float:
    """Mean over labels of the area under the ROC curve, 0 to 1; 0.5 is chance.

    Args:
        references: Indicators `(clips, labels)`.
        scores: Logits or probabilities `(clips, labels)`; only their order counts.

    Returns:
        NaN where no label has both positive and negative clips.

    Raises:
        ShapeError: If the two are not of the same shape `(clips, labels)`.
    """
    truth, values = _checked(references, scores)
    defined = truth.any(axis=0) & ~truth.all(axis=0)
    if not defined.any():
        return math.nan
    return float(roc_auc_score(truth[:, defined], values[:, defined], average="macro"))


def d_prime(auc: float) -> float:
    """Sensitivity index √2 Φ⁻¹(AUC) of a mean AUC in [0, 1]: 0 at chance, infinite for a perfect order.

    It is the distance of the means of two normal distributions of variance 1 that give that AUC.
    """
    return float(math.sqrt(2) * ndtri(auc))
