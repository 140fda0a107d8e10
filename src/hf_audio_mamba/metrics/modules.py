"""The scores as `evaluate.Metric` classes: `add`, `add_batch` and `compute` work, offline and without scripts."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.metrics.decisions import accuracy, balanced_accuracy, f1
from hf_audio_mamba.metrics.folds import mean_and_deviation
from hf_audio_mamba.metrics.ranking import (
    classes_without_negatives,
    classes_without_positives,
    d_prime,
    mean_average_precision,
    mean_roc_auc,
)
from hf_audio_mamba.metrics.regression import r2

Array = NDArray[Any]


class _PackageMetric(evaluate.Metric):
    """Common parts: what the columns hold, and the call of the plain function."""

    description: str
    # Types of the two columns; scores are float64, because rounding them would make ties.
    prediction_type: str = "int32"
    reference_type: str = "int32"
    always_rows: bool = False

    def _info(self) -> Any:
        rows = self.always_rows or self.config_name == "multilabel"
        columns = {"predictions": self.prediction_type, "references": self.reference_type}
        values = {name: datasets.Value(kind) for name, kind in columns.items()}
        return evaluate.MetricInfo(
            description=self.description,
            citation="",
            inputs_description="predictions and references, one entry a clip",
            features=datasets.Features(
                {name: datasets.Sequence(value) if rows else value for name, value in values.items()}
            ),
        )

    def scores(self, references: Array, predictions: Array) -> dict[str, float]:
        """Values by name, from whole columns."""
        raise NotImplementedError

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        return self.scores(np.asarray(references), np.asarray(predictions))


class Accuracy(_PackageMetric):
    """`accuracy` as an `evaluate.Metric`; computes `{"accuracy": value}` from class indices."""

    description = "Share of clips whose class is right."

    def scores(self, references: Array, predictions: Array) -> dict[str, float]:
        """Values by name, from class indices `(clips,)`."""
        return {"accuracy": accuracy(references, predictions)}


class BalancedAccuracy(_PackageMetric):
    """`balanced_accuracy` as an `evaluate.Metric`; computes `{"balanced_accuracy": value}`."""

    description = "Mean recall over the classes that occur in the references."

    def scores(self, references: Array, predictions: Array) -> dict[str, float]:
        """Values by name, from class indices `(clips,)`."""
        return {"balanced_accuracy": balanced_accuracy(references, predictions)}


class MacroF1(_PackageMetric):
    """Macro `f1` as an `evaluate.Metric`; computes `{"f1_macro": value}`; `config_name="multilabel"` for indicators."""

    description = "Mean F1 over the classes that occur in the references."

    def scores(self, references: Array, predictions: Array) -> dict[str, float]:
        """Values by name, from class indices `(clips,)` or indicators `(clips, labels)`."""
        return {"f1_macro": f1(references, predictions, average="macro")}


class MicroF1(_PackageMetric):
    """Micro `f1` as an `evaluate.Metric`; computes `{"f1_micro": value}`; `config_name="multilabel"` for indicators."""

    description = "F1 over all decisions."

    def scores(self, references: Array, predictions: Array) -> dict[str, float]:
        """Values by name, from class indices `(clips,)` or indicators `(clips, labels)`."""
        return {"f1_micro": f1(references, predictions, average="micro")}


class R2(_PackageMetric):
    """`r2` as an `evaluate.Metric`; computes `{"r2": value}`; `config_name="multilabel"` for several outputs."""

    prediction_type = reference_type = "float64"
    description = "Coefficient of determination about the mean of the references."

    def scores(self, references: Array, predictions: Array) -> dict[str, float]:
        """Values by name, from values `(clips,)` or `(clips, outputs)`."""
        return {"r2": r2(references, predictions)}


class MeanAveragePrecision(_PackageMetric):
    """`mean_average_precision` as an `evaluate.Metric`: predictions are rows of scores, references of indicators.

    Computes `{"mean_average_precision": value, "classes_without_positives": how many the mean leaves out}`.
    """

    prediction_type = "float64"
    always_rows = True
    description = "Mean over the labels that occur of the average precision."

    def scores(self, references: Array, predictions: Array) -> dict[str, float]:
        """Values by name, from indicators and scores `(clips, labels)`."""
        return {
            "mean_average_precision": mean_average_precision(references, predictions),
            "classes_without_positives": classes_without_positives(references),
        }


class MeanROCAUC(_PackageMetric):
    """`mean_roc_auc` as an `evaluate.Metric`: predictions are rows of scores, references of indicators.

    Computes `{"mean_roc_auc": value, "classes_without_auc": how many the mean leaves out}`.
    """

    prediction_type = "float64"
    always_rows = True
    description = "Mean over the labels with positive and negative clips of the area under the ROC curve."

    def scores(self, references: Array, predictions: Array) -> dict[str, float]:
        """Values by name, from indicators and scores `(clips, labels)`."""
        undefined = classes_without_positives(references) + classes_without_negatives(references)
        return {"mean_roc_auc": mean_roc_auc(references, predictions), "classes_without_auc": undefined}


class DPrime(_PackageMetric):
    """`d_prime` of the mean ROC-AUC as an `evaluate.Metric`: rows of scores and of indicators; `{"d_prime": value}`."""

    prediction_type = "float64"
    always_rows = True
    description = "Sensitivity index of the mean ROC-AUC."

    def scores(self, references: Array, predictions: Array) -> dict[str, float]:
        """Values by name, from indicators and scores `(clips, labels)`."""
        return {"d_prime": d_prime(mean_roc_auc(references, predictions))}


class AcrossFolds(evaluate.Metric):
    """Mean and standard deviation over folds of another metric of this package, as an `evaluate.Metric`.

    Each clip comes with the name of the fold that it was held out in: `compute(predictions=..., references=...,
    folds=...)`. The result has `<name>` (mean over folds with equal weights), `<name>_deviation` (one degree of freedom
    less) for every value of the inner metric, and `folds`, their number.

    Args:
        metric: The inner metric, for example `Accuracy()`.
        **kwargs: As for every `evaluate.Metric`.

    Raises:
        UsageError: If the inner metric is not one of this package.
    """

    def __init__(self, metric: _PackageMetric, **kwargs: Any) -> None:
        if not isinstance(metric, _PackageMetric):
            raise UsageError(f"metric must be a metric of hf_audio_mamba.metrics, such as Accuracy(), not {metric!r}")
        self._metric = metric
        super().__init__(config_name=metric.config_name, **kwargs)

    def _info(self) -> Any:
        inner = self._metric.info
        return evaluate.MetricInfo(
            description=f"{inner.description} Mean and standard deviation over folds.",
            citation="",
            inputs_description="predictions, references and folds, one entry a clip",
            features=datasets.Features({**inner.features, "folds": datasets.Value("string")}),
        )

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any], folds: Sequence[str]) -> dict[str, float]:
        guess, truth, fold = np.asarray(predictions), np.asarray(references), np.asarray(folds)
        scores = [self._metric.scores(truth[fold == name], guess[fold == name]) for name in sorted(set(folds))]
        result: dict[str, float] = {}
        for name in scores[0]:
            result[name], result[f"{name}_deviation"] = mean_and_deviation([score[name] for score in scores])
        return {**result, "folds": len(scores)}
