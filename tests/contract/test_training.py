"""Invariants of training every model."""

import copy

import pytest
import torch
from transformers import AutoModelForAudioClassification, PreTrainedModel

from tests.contract.model_cases import ModelCase


def gradients(model: PreTrainedModel, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(inputs, labels=labels).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_every_parameter_gets_a_gradient(case: ModelCase, model: PreTrainedModel) -> None:
    found = gradients(model.train(), case.inputs(), torch.tensor([0, 2]))
    missing = [name for name, _ in model.named_parameters() if name not in found or found[name].abs().sum() == 0]
    assert missing == []


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
def test_gradient_checkpointing_changes_nothing(case: ModelCase, model: PreTrainedModel) -> None:
    model.train()
    inputs, labels = case.inputs(), torch.tensor([0, 2])
    plain = gradients(model, inputs, labels)
    model.gradient_checkpointing_enable()
    checkpointed = gradients(model, inputs, labels)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels"),
    [
        ("single_label_classification", 3, torch.tensor([0, 2])),
        ("multi_label_classification", 3, torch.tensor([[1, 0, 1], [0, 0, 0]])),
        ("regression", 1, torch.tensor([0.2, 0.9])),
        ("regression", 2, torch.tensor([[0.2, 0.9], [0.4, 0.1]])),
    ],
)
def test_problem_types_have_their_loss(
    case: ModelCase,
    problem_type: str,
    num_labels: int,
    labels: torch.Tensor,
    recwarn: pytest.WarningsRecorder,
) -> None:
    config = case.config(num_labels=num_labels, problem_type=problem_type)
    model = AutoModelForAudioClassification.from_config(config)
    out = model(case.inputs(), labels=labels)
    expected = {
        "single_label_classification": lambda: torch.nn.functional.cross_entropy(out.logits, labels),
        "multi_label_classification": lambda: torch.nn.functional.binary_cross_entropy_with_logits(
            out.logits, labels.float()
        ),
        "regression": lambda: ((out.logits - labels.reshape(out.logits.shape)) ** 2).mean(),
    }[problem_type]()
    torch.testing.assert_close(out.loss, expected)
    out.loss.backward()
    assert [w for w in recwarn if issubclass(w.category, UserWarning)] == []


def test_a_few_steps_lower_the_loss(case: ModelCase, model: PreTrainedModel) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    inputs, labels = case.inputs(6), torch.tensor([0, 1, 2, 0, 1, 2])
    first = model(inputs, labels=labels).loss.item()
    for _ in range(12):
        optimizer.zero_grad()
        loss = model(inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * first


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification", "regression"])
def test_the_loss_is_a_mean_so_accumulation_is_the_trainers_to_divide(case: ModelCase, problem_type: str) -> None:
    """Transformers' Trainer leaves the loss undivided where `accepts_loss_kwargs` is not False."""
    # In training, batch normalisation would make each clip depend on the others of its batch.
    model = AutoModelForAudioClassification.from_config(case.config(problem_type=problem_type)).eval()
    assert model.accepts_loss_kwargs is False
    inputs = case.inputs(4)
    labels = torch.tensor([0, 1, 2, 0])
    if problem_type != "single_label_classification":
        labels = torch.nn.functional.one_hot(labels, 3).float()
    whole = gradients(model, inputs, labels)
    halves = [gradients(copy.deepcopy(model), inputs[i : i + 2], labels[i : i + 2]) for i in (0, 2)]
    for name, gradient in whole.items():
        torch.testing.assert_close((halves[0][name] + halves[1][name]) / 2, gradient, atol=1e-6, rtol=1e-4)
