"""Learning rates by epochs, against the definitions of their sources and torch's own schedules."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import MultiStepLR

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.training import AudioTrainer
from hf_audio_mamba.training.schedules import epoch_schedule


def factors(name: str, parameters: dict[str, Any], epochs: int) -> list[float]:
    factor = epoch_schedule(name, parameters).at_step(7, 0)
    by_step = [[factor(7 * epoch + step) for step in range(7)] for epoch in range(epochs)]
    assert all(len(set(one)) == 1 for one in by_step), "an epoch has one rate"
    return [one[0] for one in by_step]


def test_htsat_as_its_recipe_lists_it() -> None:
    a, b, c = 0.05, 0.1, 0.2
    expected = [a, b, c, *[c] * 8, *[b] * 10, *[a] * 10, *[0.03] * 9]
    assert factors("htsat", {"rates": [a, b, c], "epochs": [10, 20, 30]}, 40) == expected
    assert factors("htsat", {"rates": [a, b, c]}, 40) == expected
    slow = factors("htsat", {"rates": [0.5, 1.0], "epochs": [3, 5]}, 40)
    assert slow[:6] == [0.5, 1.0, 1.0, 1.0, 0.5, 0.5]
    assert slow[6:] == pytest.approx([0.5 * 0.98**epoch for epoch in range(6, 40)])


@pytest.mark.parametrize(("start", "every", "gamma"), [(2, 1, 0.5), (10, 5, 0.5), (5, 2, 0.75), (5, 1, 0.85)])
def test_decay_equals_multi_step_of_torch(start: int, every: int, gamma: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = MultiStepLR(optimizer, list(range(start, 1000, every)), gamma=gamma)
    expected = []
    for _ in range(30):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    got = factors("epoch_decay", {"start": start, "every": every, "gamma": gamma}, 30)
    assert got == pytest.approx(expected, rel=1e-12)


def test_stated_factors() -> None:
    got = factors("epoch_factors", {"epochs": [10, 20], "factors": [0.05, 0.01]}, 30)
    assert got == [1.0] * 10 + [0.05] * 10 + [0.01] * 10


def test_warm_up_in_stairs_and_from_a_start() -> None:
    constant = {"epochs": [1000], "factors": [1.0]}
    stairs = epoch_schedule("epoch_factors", {**constant, "warmup_stair": 50}).at_step(10**6, 1000)
    assert [stairs(step) for step in range(1002)] == pytest.approx(
        [min(1.0, 50 * (step // 50) / 1000) for step in range(1002)]
    )
    line = epoch_schedule("epoch_factors", {**constant, "warmup_start": 0.01}).at_step(10**6, 200)
    assert [line(step) for step in (0, 100, 200)] == pytest.approx([0.01, 0.505, 1.0])
    over_decay = epoch_schedule("epoch_decay", {"start": 1, "gamma": 0.5}).at_step(10, 20)
    assert over_decay(15) == pytest.approx(0.5 * 0.75)


@given(steps=st.integers(0, 5000), warmup=st.integers(0, 3000), stair=st.integers(1, 200))
def test_warm_up_never_exceeds_the_schedule(steps: int, warmup: int, stair: int) -> None:
    schedule = epoch_schedule("epoch_decay", {"start": 3, "gamma": 0.5, "warmup_stair": stair})
    with_warmup, plain = schedule.at_step(100, warmup)(steps), schedule.at_step(100, 0)(steps)
    assert 0 <= with_warmup <= plain
    assert steps < warmup or with_warmup == plain


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("htsat", None, "htsat needs rates"),
        ("htsat", {"rates": [0.1], "peak": 3}, "there is no 'peak'"),
        ("htsat", {"rates": [0.1, 0.2]}, "rates and epochs must be as many, but are 2 and 3"),
        ("htsat", {"rates": [0.1, -0.2, 0.3]}, "rates must be finite and at least 0"),
        ("htsat", {"rates": []}, "rates must be"),
        ("htsat", {"rates": 0.1}, "rates must be"),
        ("htsat", {"rates": [0.1, 0.2, 0.3], "epochs": [10, 10, 30]}, "epochs must grow"),
        ("htsat", {"rates": [0.1, 0.2, 0.3], "epochs": [1, 10, 30]}, "epochs must be whole and at least 2"),
        ("epoch_decay", {"gamma": 0.5}, "needs start"),
        ("epoch_decay", {"start": 0, "gamma": 0.5}, "start must be whole and at least 1"),
        ("epoch_decay", {"start": 2.5, "gamma": 0.5}, "start must be whole"),
        ("epoch_decay", {"start": 2, "every": 0, "gamma": 0.5}, "every must be"),
        ("epoch_decay", {"start": 2, "gamma": float("nan")}, "gamma must be finite"),
        ("epoch_decay", {"start": 2, "gamma": 1, "warmup_stair": 0}, "warmup_stair must be"),
        ("epoch_decay", {"start": 2, "gamma": 1, "warmup_start": 1.5}, "warmup_start is 1.5"),
        ("epoch_decay", {"start": 2, "gamma": 1, "steps_per_epoch": -3}, "steps_per_epoch must be"),
        ("epoch_factors", {"epochs": [3], "factors": [True]}, "factors must be"),
        ("epoch_factors", {"epochs": "3", "factors": [1]}, "epochs must be"),
    ],
)
def test_unusable_parameters_are_refused(name: str, parameters: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        epoch_schedule(name, parameters)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # 22 clips: three batches of 8 an epoch, six of 4 accumulated in pairs, two full ones.
        ({}, [0.1] * 3 + [0.4] * 3 + [0.1] * 3),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, [0.1] * 3 + [0.4] * 3 + [0.1] * 3),
        ({"dataloader_drop_last": True}, [0.1] * 2 + [0.4] * 2 + [0.1] * 2),
        ({"steps_per_epoch": 4}, [0.1] * 4 + [0.4] * 4 + [0.1]),
    ],
)
def test_trainer_follows_the_schedule(
    make_trainer: Callable[..., AudioTrainer], tmp_path: Path, arguments: dict[str, Any], expected: list[float]
) -> None:
    parameters: dict[str, Any] = {"rates": [0.1, 0.4], "epochs": [1, 2]}
    if "steps_per_epoch" in arguments:
        parameters["steps_per_epoch"] = arguments["steps_per_epoch"]
        arguments = {}
    trainer = make_trainer(
        lr_scheduler_type="htsat",
        lr_scheduler_kwargs=parameters,
        warmup_steps=0,
        learning_rate=2e-3,
        logging_strategy="steps",
        logging_steps=1,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        **arguments,
    )
    assert trainer.args.lr_scheduler_type == "htsat"
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([2e-3 * factor for factor in expected])


def test_data_without_a_length_needs_steps(make_trainer: Callable[..., AudioTrainer]) -> None:
    trainer = make_trainer(lr_scheduler_type="epoch_decay", lr_scheduler_kwargs={"start": 1, "gamma": 0.5})
    trainer.create_optimizer()
    trainer.train_dataset = iter(())
    with pytest.raises(UsageError, match="give steps_per_epoch"):
        trainer.create_scheduler(10)
