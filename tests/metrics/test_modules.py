"""The `evaluate.Metric` classes: offline, in batches, several together."""

import evaluate
import numpy as np
import pytest
from sklearn import metrics as sk

from hf_audio_mamba import metrics
from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.metrics import (
    R2,
    Accuracy,
    AcrossFolds,
    BalancedAccuracy,
    DPrime,
    MacroF1,
    MeanAveragePrecision,
    MeanROCAUC,
    MicroF1,
)

REFERENCES = [0, 0, 0, 1, 1, 2]
PREDICTIONS = [0, 0, 1, 1, 2, 3]


@pytest.fixture(scope="module")
def tagged() -> tuple[np.ndarray, np.ndarray]:
    """Indicators and scores of 40 clips and 5 labels; one label no clip has, another every clip has."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, (40, 5))
    truth[:, 3], truth[:, 4] = 0, 1
    # Closer together than float32 can tell apart.
    return truth, 1 - 1e-9 * generator.random((40, 5))


def test_class_metrics_equal_the_functions() -> None:
    arguments = {"predictions": PREDICTIONS, "references": REFERENCES}
    assert Accuracy().compute(**arguments) == {"accuracy": 0.5}
    assert BalancedAccuracy().compute(**arguments)["balanced_accuracy"] == pytest.approx(7 / 18)
    assert MacroF1().compute(**arguments)["f1_macro"] == pytest.approx(1.3 / 3)
    assert MicroF1().compute(**arguments) == {"f1_micro": 0.5}
    assert R2().compute(predictions=[0.0, 0.5], references=[0.0, 1.0])["r2"] == pytest.approx(0.5)


def test_rows_of_several_labels() -> None:
    rows = {"predictions": [[1, 0], [1, 1]], "references": [[1, 0], [0, 1]]}
    assert MicroF1("multilabel").compute(**rows)["f1_micro"] == pytest.approx(0.8)
    assert MacroF1("multilabel").compute(**rows)["f1_macro"] == pytest.approx((2 / 3 + 1) / 2)


def test_tagging_metrics_equal_sklearn_and_count_what_they_leave_out(tagged: tuple[np.ndarray, np.ndarray]) -> None:
    truth, scores = tagged
    arguments = {"predictions": scores, "references": truth}
    precision = np.mean([sk.average_precision_score(truth[:, k], scores[:, k]) for k in (0, 1, 2, 4)])
    area = np.mean([sk.roc_auc_score(truth[:, k], scores[:, k]) for k in (0, 1, 2)])
    assert MeanAveragePrecision().compute(**arguments) == {
        "mean_average_precision": pytest.approx(precision),
        "classes_without_positives": 1,
    }
    assert MeanROCAUC().compute(**arguments) == {"mean_roc_auc": pytest.approx(area), "classes_without_auc": 2}
    assert DPrime().compute(**arguments) == {"d_prime": pytest.approx(metrics.d_prime(area))}


def test_batches_and_single_clips_add_up(tagged: tuple[np.ndarray, np.ndarray]) -> None:
    truth, scores = tagged
    metric = MeanAveragePrecision()
    metric.add_batch(predictions=scores[:15], references=truth[:15])
    for row in range(15, 40):
        metric.add(prediction=scores[row], reference=truth[row])
    assert metric.compute() == MeanAveragePrecision().compute(predictions=scores, references=truth)


def test_metrics_combine(tagged: tuple[np.ndarray, np.ndarray]) -> None:
    truth, scores = tagged
    combined = evaluate.combine([MeanAveragePrecision(), MeanROCAUC(), DPrime()])
    names = {"mean_average_precision", "classes_without_positives", "mean_roc_auc", "classes_without_auc", "d_prime"}
    assert set(combined.compute(predictions=scores, references=truth)) == names


def test_across_folds_is_mean_and_deviation_of_the_folds_scores() -> None:
    generator = np.random.default_rng(1)
    truth, guess, fold = generator.integers(0, 3, 50), generator.integers(0, 3, 50), generator.integers(1, 6, 50)
    each = [sk.f1_score(truth[fold == k], guess[fold == k], average="micro") for k in range(1, 6)]
    metric = AcrossFolds(MicroF1())
    metric.add_batch(predictions=guess[:20], references=truth[:20], folds=[str(name) for name in fold[:20]])
    metric.add_batch(predictions=guess[20:], references=truth[20:], folds=[str(name) for name in fold[20:]])
    assert metric.compute() == {
        "f1_micro": pytest.approx(np.mean(each)),
        "f1_micro_deviation": pytest.approx(np.std(each, ddof=1)),
        "folds": 5,
    }


def test_across_folds_takes_rows(tagged: tuple[np.ndarray, np.ndarray]) -> None:
    truth, scores = tagged
    folds = ["a", "b"] * 20
    result = AcrossFolds(MeanAveragePrecision()).compute(predictions=scores, references=truth, folds=folds)
    halves = [metrics.mean_average_precision(truth[part::2], scores[part::2]) for part in (0, 1)]
    assert result["mean_average_precision"] == pytest.approx(np.mean(halves))
    assert result["classes_without_positives"] == 1


def test_across_folds_needs_a_metric_of_this_package() -> None:
    with pytest.raises(UsageError, match="metric must be a metric of hf_audio_mamba"):
        AcrossFolds("accuracy")


def test_a_single_fold_has_no_deviation() -> None:
    mean, deviation = metrics.mean_and_deviation([0.5])
    assert mean == 0.5
    assert np.isnan(deviation)
