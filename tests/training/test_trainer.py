"""Loss, optimiser groups and order of clips; resuming is tested in tests/faults."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.training import AudioTrainer
from tests.training.conftest import LABELS, make_model

MakeTrainer = Callable[..., AudioTrainer]


def batch(trainer: AudioTrainer) -> dict[str, torch.Tensor]:
    return next(iter(trainer.get_eval_dataloader()))


def test_only_matrices_decay(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    parameters = dict(trainer.model.named_parameters())
    parameters["momamba.layers.0.mixer.forward_mixer.x_proj.weight"]._no_weight_decay = True  # type: ignore[attr-defined]
    decaying = set(trainer.get_decay_parameter_names(trainer.model))
    kept_apart = {name.rpartition(".")[2] for name in parameters.keys() - decaying}
    assert any(name.endswith("in_proj.weight") for name in decaying)
    assert any(name.endswith("x_proj.weight") for name in parameters.keys() - decaying)
    assert {"A_log", "D", "bias"} <= kept_apart
    assert all(parameters[name].ndim > 1 for name in decaying)
    assert not any("norm" in name or name.endswith("bias") for name in decaying)


def test_every_parameter_may_decay(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(weight_decay_all=True, weight_decay=0.05)
    decaying, kept_apart = trainer.create_optimizer().param_groups
    assert (decaying["weight_decay"], kept_apart["params"]) == (0.05, [])
    assert len(decaying["params"]) == len(list(trainer.model.parameters()))


@pytest.mark.parametrize("soft", [False, True])
def test_single_labels_may_be_scored_one_by_one(make_trainer: MakeTrainer, soft: bool) -> None:
    trainer = make_trainer(single_label_loss="binary_cross_entropy")
    model = trainer.model.eval()
    inputs = batch(trainer)
    targets = F.one_hot(inputs["labels"], LABELS).double()
    if soft:
        targets = 0.3 * targets + 0.7 * targets.flip(0)
        inputs["labels"] = targets.float()
    probabilities = torch.sigmoid(
        model(inputs["input_values"], attention_mask=inputs["attention_mask"]).logits.double()
    )
    expected = -(targets * probabilities.log() + (1 - targets) * (1 - probabilities).log()).mean().item()
    assert trainer.compute_loss(model, inputs).item() == pytest.approx(expected, rel=1e-5)


def test_soft_labels_are_a_cross_entropy(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    model = trainer.model.eval()
    inputs = batch(trainer)
    hard = trainer.compute_loss(model, dict(inputs)).item()
    one_hot = F.one_hot(inputs["labels"], LABELS).float()
    assert trainer.compute_loss(model, {**inputs, "labels": one_hot}).item() == pytest.approx(hard, rel=1e-5)
    logits = model(inputs["input_values"], attention_mask=inputs["attention_mask"]).logits
    even = -logits.log_softmax(-1).mean(-1).mean().item()
    uniform = torch.full_like(one_hot, 1 / LABELS)
    assert trainer.compute_loss(model, {**inputs, "labels": uniform}).item() == pytest.approx(even, rel=1e-5)


def test_labels_are_smoothed_in_training_only(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(label_smoothing_factor=0.3, model=make_model(hidden_dropout=0.0))
    inputs = batch(trainer)
    evaluated = trainer.compute_loss(trainer.model.eval(), dict(inputs)).item()
    logits = trainer.model(inputs["input_values"], attention_mask=inputs["attention_mask"]).logits
    assert evaluated == pytest.approx(F.cross_entropy(logits, inputs["labels"]).item(), rel=1e-5)
    trained = trainer.compute_loss(trainer.model.train(), dict(inputs)).item()
    targets = F.one_hot(inputs["labels"], LABELS) * 0.7 + 0.3 / LABELS
    assert trained == pytest.approx(-(targets * logits.log_softmax(-1)).sum(-1).mean().item(), rel=1e-5)


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification", "regression"])
def test_accumulation_changes_nothing(make_trainer: MakeTrainer, tmp_path: Path, problem_type: str) -> None:
    norms = []
    for size, accumulated in ((8, 1), (2, 4)):
        trainer = make_trainer(
            tmp_path / str(size),
            model=make_model(problem_type, hidden_dropout=0.0),
            problem_type=problem_type,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
            max_steps=1,
            logging_strategy="steps",
            logging_steps=1,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
        )
        trainer.train()
        norms.append(trainer.state.log_history[0]["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_predictions_keep_the_order_of_the_data(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(train_sampling_strategy="group_by_length", per_device_eval_batch_size=2)
    predicted = trainer.predict(trainer.eval_dataset)
    assert predicted.label_ids.tolist() == [0, 1, 2, 0, 1, 2]
    with torch.no_grad():
        for index, logits in enumerate(predicted.predictions):
            clip = torch.from_numpy(trainer.eval_dataset[index]["input_values"])[None]
            np.testing.assert_allclose(trainer.model.eval()(clip).logits[0].numpy(), logits, atol=1e-5)


def test_evaluation_leaves_the_random_state_alone(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    before = torch.get_rng_state()
    scores = trainer.evaluate()
    assert torch.equal(torch.get_rng_state(), before)
    assert math.isfinite(scores["eval_loss"])


def test_best_checkpoint_by_the_metric_of_the_problem(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(problem_type="regression")
    assert (trainer.args.metric_for_best_model, trainer.args.greater_is_better) == ("r2", True)
    trainer.train()
    best = max(entry["eval_r2"] for entry in trainer.state.log_history if "eval_r2" in entry)
    assert trainer.state.best_metric == best
    assert trainer.evaluate()["eval_r2"] == pytest.approx(best, abs=1e-5)


def test_problem_type_must_be_known_and_fit(make_trainer: MakeTrainer) -> None:
    model = make_model()
    model.config.problem_type = None
    with pytest.raises(UsageError, match=r"config\.problem_type is None"):
        make_trainer(model=model)
    with pytest.raises(UsageError, match="--label_smoothing_factor"):
        make_trainer(problem_type="regression", label_smoothing_factor=0.1)
    with pytest.raises(UsageError, match="--single_label_loss binary_cross_entropy belongs to single-label"):
        make_trainer(problem_type="multi_label_classification", single_label_loss="binary_cross_entropy")
