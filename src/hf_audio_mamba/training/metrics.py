"""Which scores each problem type has, their intervals, and what the Trainer and the tables make of them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hf_audio_mamba.errors import HFAudioMambaError, UsageError
from hf_audio_mamba.metrics import (
    accuracy,
    balanced_accuracy,
    classes_without_negatives,
    classes_without_positives,
    d_prime,
    f1,
    mean_average_precision,
    mean_roc_auc,
    r2,
)
from hf_audio_mamba.training.assignments import nearest

METRICS = {
    "single_label_classification": ("accuracy", "balanced_accuracy", "f1_macro", "f1_micro"),
    "multi_label_classification": ("mean_average_precision", "mean_roc_auc", "d_prime", "f1_macro", "f1_micro"),
    "regression": ("r2", "mean_absolute_error"),
}
"""Names of the metrics of each problem type; the first picks the best checkpoint unless another is asked for."""

TABULATED = ("mean_roc_auc", "d_prime")
"""Metrics that the table of a run shows for the test split beside the first one of its problem type."""


def score(problem_type: str, references: ArrayLike, outputs: ArrayLike) -> dict[str, float]:
    """All metrics of one problem type.

    Args:
        problem_type: `single_label_classification`, `multi_label_classification` or `regression`.
        references: Class indices `(clips,)`, indicators `(clips, labels)` or targets `(clips, outputs)`.
        outputs: Logits `(clips, labels)`, where a positive logit of a multi-label model means present, or predicted
            values `(clips, outputs)`.

    Returns:
        Metric name to value.

    Raises:
        HFAudioMambaError: If an output is NaN or infinite.
        UsageError: If the problem type is unknown.
    """
    references, outputs = np.asarray(references), np.asarray(outputs)
    if not np.isfinite(outputs).all():
        raise HFAudioMambaError(
            "The model's outputs are not finite numbers: training has diverged. Lower --learning_rate, raise "
            "--warmup_steps, or lower --max_grad_norm."
        )
    if problem_type == "single_label_classification":
        predictions = outputs.argmax(axis=-1)
        return {
            "accuracy": accuracy(references, predictions),
            "balanced_accuracy": balanced_accuracy(references, predictions),
            "f1_macro": f1(references, predictions, average="macro"),
            "f1_micro": f1(references, predictions, average="micro"),
        }
    if problem_type == "multi_label_classification":
        present = (outputs > 0).astype(int)
        references = references.astype(int)
        auc = mean_roc_auc(references, outputs)
        return {
            "mean_average_precision": mean_average_precision(references, outputs),
            "mean_roc_auc": auc,
            "d_prime": d_prime(auc),
            "f1_macro": f1(references, present, average="macro"),
            "f1_micro": f1(references, present, average="micro"),
        }
    if problem_type == "regression":
        references, outputs = references.reshape(len(outputs), -1), outputs.reshape(len(outputs), -1)
        return {
            "r2": r2(references, outputs),
            "mean_absolute_error": float(np.abs(references - outputs).mean()),
        }
    raise UsageError(f"problem_type {problem_type!r} has no metrics; use one of {', '.join(METRICS)}.")


def bootstrap_intervals(
    problem_type: str, references: ArrayLike, outputs: ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % percentile bootstrap interval of every metric, resampling clips with replacement.

    Args:
        problem_type: As in `score`.
        references: As in `score`.
        outputs: As in `score`.
        resamples: Number of resamples.
        seed: Of their draw; the same seed gives the same intervals.

    Returns:
        Metric name to `(low, high)`. Resamples in which a metric is undefined are left out of its interval.
    """
    references, outputs = np.asarray(references), np.asarray(outputs)
    generator = np.random.default_rng(seed)
    draws: dict[str, list[float]] = {}
    for _ in range(resamples):
        picked = generator.integers(0, len(references), len(references))
        for name, value in score(problem_type, references[picked], outputs[picked]).items():
            draws.setdefault(name, []).append(value)
    # Percentiles commute with the increasing function that d-prime is, and resamples of AUC 1 would make it infinite.
    draws.pop("d_prime", None)
    low_high = {name: np.nanpercentile(values, [2.5, 97.5]) for name, values in draws.items()}
    if "mean_roc_auc" in low_high:
        low_high["d_prime"] = np.array([d_prime(end) for end in low_high["mean_roc_auc"]])
    return {name: (float(low), float(high)) for name, (low, high) in low_high.items()}


def undefined_labels(problem_type: str, references: ArrayLike) -> dict[str, int]:
    """How many labels the means of a multi-label problem leave out; empty for other problem types.

    Args:
        problem_type: As in `score`.
        references: Indicators `(clips, labels)`.

    Returns:
        `without_positives`: labels that no clip has, left out of `mean_average_precision` and `mean_roc_auc`;
        `without_negatives`: labels that every clip has, left out of `mean_roc_auc`.
    """
    if problem_type != "multi_label_classification":
        return {}
    return {
        "without_positives": classes_without_positives(references),
        "without_negatives": classes_without_negatives(references),
    }


def trainer_metrics(problem_type: str) -> Callable[[Any], dict[str, float]]:
    """The `compute_metrics` function of a Trainer for one problem type."""

    def compute(prediction: Any) -> dict[str, float]:
        outputs = prediction.predictions
        outputs = outputs[0] if isinstance(outputs, tuple) else outputs
        return score(problem_type, prediction.label_ids, outputs)

    return compute


def check_metric(problem_type: str, metric: str) -> None:
    """Refuse a `--metric_for_best_model` that the problem type does not have.

    Raises:
        UsageError: With the nearest metric that exists.
    """
    known = [*METRICS[problem_type], "loss"]
    if metric.removeprefix("eval_") not in known:
        raise UsageError(f"--metric_for_best_model {metric!r} is none of {', '.join(known)}{nearest(metric, known)}")


def best_is_greater(metric: str) -> bool:
    """Whether more of a metric is better: true of all but losses and errors."""
    return not metric.endswith(("loss", "error"))


def format_table(rows: Mapping[str, Mapping[str, str]], *, corner: str = "") -> str:
    """Lay out rows of named cells as plain text, columns in order of first appearance."""
    columns = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    lines = [[corner, *columns]]
    lines += [[label, *(cells.get(name, "") for name in columns)] for label, cells in rows.items()]
    first, *rest = (max(map(len, column)) for column in zip(*lines, strict=True))
    laid_out = (
        [line[0].ljust(first), *(cell.rjust(width) for cell, width in zip(line[1:], rest, strict=True))]
        for line in lines
    )
    return "\n".join("  ".join(cells).rstrip() for cells in laid_out)
