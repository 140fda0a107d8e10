"""The floor that a sequence model has to justify itself against: models that do not know what time is.

Each clip is reduced to the mean, the standard deviation and the maximum over time of every band; on that go the most
frequent class (or the mean target) and a regularised linear model, from the same features and the same splits.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_audio_mamba._optional import require
from hf_audio_mamba.training.metrics import score

LOGISTIC_C = 0.1
MAX_ITERATIONS = 2000


def summarise(features: Iterable[ArrayLike]) -> NDArray[np.float32]:
    """Mean, standard deviation and maximum over time.

    Args:
        features: Clips of shape `(frames, bands)`, of any number of frames each.

    Returns:
        Shape `(clips, 3 * bands)`.
    """
    rows = []
    for clip in features:
        frames = np.asarray(clip, dtype=np.float32)
        rows.append(np.concatenate([frames.mean(axis=0), frames.std(axis=0), frames.max(axis=0)]))
    return np.stack(rows)


def floor_scores(
    problem_type: str,
    train: tuple[NDArray[np.float32], NDArray[Any]],
    evaluation: dict[str, tuple[NDArray[np.float32], NDArray[Any]]],
    *,
    num_labels: int,
) -> dict[str, dict[str, dict[str, float]]]:
    """Fit the floor on the training split and score it on others.

    Args:
        problem_type: As in `hf_audio_mamba.training.metrics.score`.
        train: Summaries `(clips, 3 * bands)` and labels of the training split.
        evaluation: The same for each split to score.
        num_labels: Number of classes or outputs.

    Returns:
        Model name, then split name, then metric name to value. Model names are `majority class` (or `mean`) and
        `logistic regression` (or `ridge regression`).
    """
    results: dict[str, dict[str, dict[str, float]]] = {}
    summaries, labels = train
    for name, model in _models(problem_type).items():
        model.fit(summaries, labels)
        results[name] = {
            split: score(problem_type, references, _outputs(problem_type, model, inputs, num_labels))
            for split, (inputs, references) in evaluation.items()
        }
    return results


def _models(problem_type: str) -> dict[str, Any]:
    purpose = "fitting the floor (leave it out with --no_floor)"
    dummy = require("sklearn.dummy", extra="train", purpose=purpose)
    linear = require("sklearn.linear_model", extra="train", purpose=purpose)
    pipeline = require("sklearn.pipeline", extra="train", purpose=purpose)
    preprocessing = require("sklearn.preprocessing", extra="train", purpose=purpose)
    if problem_type == "regression":
        ridge = pipeline.make_pipeline(preprocessing.StandardScaler(), linear.Ridge(alpha=1.0 / LOGISTIC_C))
        return {"mean": dummy.DummyRegressor(), "ridge regression": ridge}
    logistic: Any = linear.LogisticRegression(C=LOGISTIC_C, max_iter=MAX_ITERATIONS)
    if problem_type == "multi_label_classification":
        multiclass = require("sklearn.multiclass", extra="train", purpose=purpose)
        logistic = multiclass.OneVsRestClassifier(logistic)
    return {
        "majority class": dummy.DummyClassifier(strategy="most_frequent"),
        "logistic regression": pipeline.make_pipeline(preprocessing.StandardScaler(), logistic),
    }


def _outputs(
    problem_type: str, model: Any, summaries: NDArray[np.float32], num_labels: int
) -> NDArray[np.floating[Any]]:
    """Predictions in the form that `score` takes: logits with the sign as decision, or values."""
    predicted = np.asarray(model.predict(summaries))
    if problem_type == "regression":
        return predicted.astype(np.float64)
    if problem_type == "single_label_classification":
        return np.asarray(np.eye(num_labels)[predicted])
    if hasattr(model, "decision_function"):
        return np.asarray(model.decision_function(summaries), dtype=np.float64)
    return predicted.astype(np.float64) - 0.5
