import numpy as np
import pytest

from hf_audio_mamba.errors import HFAudioMambaError, UsageError
from hf_audio_mamba.metrics import d_prime
from hf_audio_mamba.training import metrics
from hf_audio_mamba.training.metrics import bootstrap_intervals, format_table, score, undefined_labels

REFERENCES = [0, 0, 0, 1, 1, 2]
PREDICTIONS = [0, 0, 1, 1, 2, 3]  # recall 2/3, 1/2, 0; class 3 does not occur


def test_score_covers_every_problem_type() -> None:
    logits = np.eye(4)[PREDICTIONS]
    single = score("single_label_classification", REFERENCES, logits)
    assert single["accuracy"] == single["f1_micro"] == pytest.approx(0.5)
    multi = score("multi_label_classification", [[1.0, 0.0], [0.0, 1.0]], [[2.0, -1.0], [-3.0, 0.5]])
    assert multi == {
        "mean_average_precision": 1.0,
        "mean_roc_auc": 1.0,
        "d_prime": np.inf,
        "f1_macro": 1.0,
        "f1_micro": 1.0,
    }
    regression = score("regression", np.array([[0.0], [1.0]]), np.array([0.0, 0.5]))
    assert regression == {"r2": pytest.approx(0.5), "mean_absolute_error": pytest.approx(0.25)}
    with pytest.raises(UsageError, match="clustering"):
        score("clustering", [0], [[1.0]])


def test_outputs_of_a_diverged_model_have_no_score() -> None:
    with pytest.raises(HFAudioMambaError, match=r"diverged.*--learning_rate"):
        score("single_label_classification", [0, 1], [[0.0, 1.0], [float("nan"), 0.0]])


def test_bootstrap_interval_has_the_width_of_the_binomial() -> None:
    generator = np.random.default_rng(0)
    references = np.zeros(400, int)
    outputs = np.eye(2)[(generator.random(400) < 0.2).astype(int)]
    low, high = bootstrap_intervals("single_label_classification", references, outputs)["accuracy"]
    share = (outputs.argmax(1) == references).mean()
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


def test_undefined_labels_are_counted() -> None:
    references = np.array([[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    counted = undefined_labels("multi_label_classification", references)
    assert counted == {"without_positives": 2, "without_negatives": 1}
    assert undefined_labels("single_label_classification", [0, 1]) == {}


def test_interval_of_d_prime_follows_that_of_the_auc() -> None:
    generator = np.random.default_rng(0)
    references = generator.integers(0, 2, (30, 2)).astype(float)
    outputs = references + generator.normal(size=(30, 2))
    intervals = bootstrap_intervals("multi_label_classification", references, outputs, resamples=60)
    low, high = intervals["d_prime"]
    assert (low, high) == tuple(map(d_prime, intervals["mean_roc_auc"]))
    assert low < score("multi_label_classification", references, outputs)["d_prime"] < high
