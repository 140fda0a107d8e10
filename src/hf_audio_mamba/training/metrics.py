"""Scores of audio classifiers and regressors, as plain functions and as `evaluate.Metric` classes.

The classes are part of the package, so nothing is downloaded: `Accuracy().compute(predictions=..., references=...)`.

Conventions: accuracy and micro F1 count clips, so for single-label problems they are equal; macro F1 and balanced
accuracy are unweighted means over the classes that occur in the references; mean average precision is the step-wise
sum over recall, averaged over the classes with at least one positive; R2 is taken about the mean of the references
over the whole set, never averaged over batches, and may be negative.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics as sk

from hf_audio_mamba.errors import HFAudioMambaError, UsageError
from hf_audio_mamba.training.assignments import nearest

Array = NDArray[Any]

METRICS = {
    "single_label_classification": ("accuracy", "balanced_accuracy", "f1_macro", "f1_micro"),
    "multi_label_classification": ("mean_average_precision", "f1_macro", "f1_micro"),
    "regression": ("r2", "mean_absolute_error"),
}
"""Names of the metrics of each problem type; the first picks the best checkpoint unless another is asked for."""


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


def mean_average_precision(references: ArrayLike, scores: ArrayLike) -> float:
    """Mean over the labels that occur of the average precision, 0 to 1.

    Args:
        references: Indicators `(clips, labels)`.
        scores: Logits or probabilities `(clips, labels)`; only their order counts.

    Returns:
        NaN where no label occurs at all.
    """
    references, scores = np.asarray(references), np.asarray(scores)
    present = references.any(axis=0)
    if not present.any():
        return float("nan")
    return float(sk.average_precision_score(references[:, present], scores[:, present], average="macro"))


def r2(references: ArrayLike, predictions: ArrayLike) -> float:
    """Coefficient of determination, mean over the outputs, at most 1; both `(clips,)` or `(clips, outputs)`."""
    return float(sk.r2_score(references, predictions, multioutput="uniform_average"))


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
        return {
            "mean_average_precision": mean_average_precision(references, outputs),
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
    low_high = {name: np.nanpercentile(values, [2.5, 97.5]) for name, values in draws.items()}
    return {name: (float(low), float(high)) for name, (low, high) in low_high.items()}


class _PackageMetric(evaluate.Metric):
    """Common parts: what the columns hold, and the call of the plain function."""

    key: str
    column: str = "int32"
    description: str

    def _info(self) -> Any:
        several = self.config_name == "multilabel"
        value = datasets.Value("float32" if self.column == "float32" else "int32")
        feature = datasets.Sequence(value) if several else value
        return evaluate.MetricInfo(
            description=self.description,
            citation="",
            inputs_description="predictions and references, one entry a clip",
            features=datasets.Features({"predictions": feature, "references": feature}),
        )

    def _score(self, references: Array, predictions: Array) -> float:
        raise NotImplementedError

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        return {self.key: self._score(np.asarray(references), np.asarray(predictions))}


class Accuracy(_PackageMetric):
    """`accuracy` as an `evaluate.Metric`; computes `{"accuracy": value}` from class indices."""

    key = "accuracy"
    description = "Share of clips whose class is right."

    def _score(self, references: Array, predictions: Array) -> float:
        return accuracy(references, predictions)


class BalancedAccuracy(_PackageMetric):
    """`balanced_accuracy` as an `evaluate.Metric`; computes `{"balanced_accuracy": value}`."""

    key = "balanced_accuracy"
    description = "Mean recall over the classes that occur in the references."

    def _score(self, references: Array, predictions: Array) -> float:
        return balanced_accuracy(references, predictions)


class MacroF1(_PackageMetric):
    """Macro `f1` as an `evaluate.Metric`; computes `{"f1_macro": value}`; `config_name="multilabel"` for indicators."""

    key = "f1_macro"
    description = "Mean F1 over the classes that occur in the references."

    def _score(self, references: Array, predictions: Array) -> float:
        return f1(references, predictions, average="macro")


class MicroF1(_PackageMetric):
    """Micro `f1` as an `evaluate.Metric`; computes `{"f1_micro": value}`; `config_name="multilabel"` for indicators."""

    key = "f1_micro"
    description = "F1 over all decisions."

    def _score(self, references: Array, predictions: Array) -> float:
        return f1(references, predictions, average="micro")


class R2(_PackageMetric):
    """`r2` as an `evaluate.Metric`; computes `{"r2": value}`; `config_name="multilabel"` for several outputs."""

    key = "r2"
    column = "float32"
    description = "Coefficient of determination about the mean of the references."

    def _score(self, references: Array, predictions: Array) -> float:
        return r2(references, predictions)


class MeanAveragePrecision(_PackageMetric):
    """`mean_average_precision` as an `evaluate.Metric`: predictions are scores, references indicators, row by row."""

    key = "mean_average_precision"
    description = "Mean over the labels that occur of the average precision."

    def _info(self) -> Any:
        info = super()._info()
        info.features = datasets.Features(
            {
                "predictions": datasets.Sequence(datasets.Value("float32")),
                "references": datasets.Sequence(datasets.Value("int32")),
            }
        )
        return info

    def _score(self, references: Array, predictions: Array) -> float:
        return mean_average_precision(references, predictions)


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
