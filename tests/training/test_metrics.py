import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from hf_audio_mamba.errors import HFAudioMambaError, UsageError
from hf_audio_mamba.training import metrics
from hf_audio_mamba.training.metrics import (
    R2,
    Accuracy,
    BalancedAccuracy,
    MacroF1,
    MeanAveragePrecision,
    MicroF1,
    bootstrap_intervals,
    format_table,
    score,
)

REFERENCES = [0, 0, 0, 1, 1, 2]
PREDICTIONS = [0, 0, 1, 1, 2, 3]  # recall 2/3, 1/2, 0; class 3 does not occur


def test_accuracy_counts_clips_and_balanced_accuracy_classes() -> None:
    assert metrics.accuracy(REFERENCES, PREDICTIONS) == pytest.approx(3 / 6)
    assert metrics.balanced_accuracy(REFERENCES, PREDICTIONS) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_f1_by_hand() -> None:
    # class 0: precision 1, recall 2/3; class 1: 1/2 and 1/2; class 2: 0.
    assert metrics.f1(REFERENCES, PREDICTIONS, average="macro") == pytest.approx((0.8 + 0.5 + 0) / 3)
    assert metrics.f1(REFERENCES, PREDICTIONS, average="micro") == pytest.approx(0.5)


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(2, 6), st.integers(0, 1000))
def test_classification_metrics_equal_those_of_sklearn(clips: int, classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth, guess = generator.integers(0, classes, (2, clips))
    present = np.unique(truth)
    assert metrics.accuracy(truth, guess) == pytest.approx(sk.accuracy_score(truth, guess))
    recall = sk.recall_score(truth, guess, labels=present, average="macro")
    assert metrics.balanced_accuracy(truth, guess) == pytest.approx(recall)
    macro = sk.f1_score(truth, guess, labels=present, average="macro")
    assert metrics.f1(truth, guess, average="macro") == pytest.approx(macro)
    assert metrics.f1(truth, guess, average="micro") == pytest.approx(sk.f1_score(truth, guess, average="micro"))


def test_multi_label_f1_by_hand() -> None:
    references = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]])
    predictions = np.array([[1, 1, 1], [0, 1, 0], [0, 1, 0]])
    # label 0: tp 1, fn 1 -> 2/3; label 1: tp 2, fp 1 -> 4/5; label 2 never occurs.
    assert metrics.f1(references, predictions, average="macro") == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert metrics.f1(references, predictions, average="micro") == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert metrics.f1(np.zeros((2, 3), int), np.ones((2, 3), int), average="macro") == 0


def test_mean_average_precision_is_the_stepwise_sum_over_labels_that_occur() -> None:
    references = np.array([[1, 0], [0, 0], [1, 0], [0, 0]])
    scores = np.array([[0.9, 1.0], [0.8, 0.0], [0.7, 0.0], [0.1, 0.0]])
    assert metrics.mean_average_precision(references, scores) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert np.isnan(metrics.mean_average_precision(np.zeros((2, 2)), np.zeros((2, 2))))


@settings(max_examples=30)
@given(st.integers(2, 30), st.integers(1, 3), st.integers(0, 100))
def test_r2_follows_its_definition(clips: int, outputs: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth, guess = generator.normal(size=(2, clips, outputs))
    residual = ((truth - guess) ** 2).sum(axis=0)
    total = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    assert metrics.r2(truth, guess) == pytest.approx((1 - residual / total).mean())


def test_score_covers_every_problem_type() -> None:
    logits = np.eye(4)[PREDICTIONS]
    single = score("single_label_classification", REFERENCES, logits)
    assert single["accuracy"] == single["f1_micro"] == pytest.approx(0.5)
    multi = score("multi_label_classification", [[1.0, 0.0], [0.0, 1.0]], [[2.0, -1.0], [-3.0, 0.5]])
    assert multi == {"mean_average_precision": 1.0, "f1_macro": 1.0, "f1_micro": 1.0}
    regression = score("regression", np.array([[0.0], [1.0]]), np.array([0.0, 0.5]))
    assert regression == {"r2": pytest.approx(0.5), "mean_absolute_error": pytest.approx(0.25)}
    with pytest.raises(UsageError, match="clustering"):
        score("clustering", [0], [[1.0]])


def test_outputs_of_a_diverged_model_have_no_score() -> None:
    with pytest.raises(HFAudioMambaError, match=r"diverged.*--learning_rate"):
        score("single_label_classification", [0, 1], [[0.0, 1.0], [float("nan"), 0.0]])


def test_metric_classes_equal_the_functions() -> None:
    arguments = {"predictions": PREDICTIONS, "references": REFERENCES}
    assert Accuracy().compute(**arguments) == {"accuracy": 0.5}
    assert BalancedAccuracy().compute(**arguments)["balanced_accuracy"] == pytest.approx(7 / 18)
    assert MacroF1().compute(**arguments)["f1_macro"] == pytest.approx(1.3 / 3)
    assert MicroF1().compute(**arguments) == {"f1_micro": 0.5}
    assert R2().compute(predictions=[0.0, 0.5], references=[0.0, 1.0])["r2"] == pytest.approx(0.5)


def test_metric_classes_take_rows_of_several_labels_and_batches() -> None:
    rows = {"predictions": [[1, 0], [1, 1]], "references": [[1, 0], [0, 1]]}
    assert MicroF1("multilabel").compute(**rows)["f1_micro"] == pytest.approx(0.8)
    assert MeanAveragePrecision().compute(predictions=[[0.9], [0.1]], references=[[1], [0]]) == {
        "mean_average_precision": 1.0
    }
    metric = Accuracy()
    metric.add_batch(predictions=[0, 1], references=[0, 1])
    metric.add_batch(predictions=[1, 1], references=[0, 0])
    assert metric.compute() == {"accuracy": 0.5}


def test_bootstrap_interval_has_the_width_of_the_binomial() -> None:
    generator = np.random.default_rng(0)
    references = np.zeros(400, int)
    outputs = np.eye(2)[(generator.random(400) < 0.2).astype(int)]
    low, high = bootstrap_intervals("single_label_classification", references, outputs)["accuracy"]
    share = metrics.accuracy(references, outputs.argmax(1))
    half_width = 1.96 * np.sqrt(share * (1 - share) / 400)
    assert low == pytest.approx(share - half_width, abs=0.01)
    assert high == pytest.approx(share + half_width, abs=0.01)


def test_bootstrap_is_seeded() -> None:
    generator = np.random.default_rng(0)
    problem = ("regression", generator.normal(size=30), generator.normal(size=30))
    first = bootstrap_intervals(*problem, resamples=50, seed=1)
    assert bootstrap_intervals(*problem, resamples=50, seed=1) == first
    assert bootstrap_intervals(*problem, resamples=50, seed=2) != first


def test_trainer_metrics_take_the_logits_of_a_tuple() -> None:
    from transformers import EvalPrediction

    logits = np.eye(4)[PREDICTIONS].astype(np.float32)
    compute = metrics.trainer_metrics("single_label_classification")
    plain = compute(EvalPrediction(logits, np.array(REFERENCES)))
    assert plain["accuracy"] == 0.5
    assert compute(EvalPrediction((logits, np.zeros(3)), np.array(REFERENCES))) == plain


def test_less_of_a_loss_or_an_error_is_better() -> None:
    assert metrics.best_is_greater("accuracy")
    assert not metrics.best_is_greater("eval_loss")
    assert not metrics.best_is_greater("mean_absolute_error")


def test_table_lines_up() -> None:
    text = format_table({"majority": {"test": "0.1"}, "model": {"test": "0.95", "interval": "0.9 to 1"}})
    assert text.split("\n") == [
        "          test  interval",
        "majority   0.1",
        "model     0.95  0.9 to 1",
    ]
