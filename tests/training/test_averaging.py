"""Mean weights of checkpoints, mean outputs over shifts."""

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file
from scipy.special import expit, softmax

from hf_audio_mamba.errors import CheckpointError
from hf_audio_mamba.training import AudioTrainer
from hf_audio_mamba.training.averaging import average_outputs, chosen_checkpoints, mean_weights, time_shifts
from tests.faults.test_resume import Crash, crash

MakeTrainer = Callable[..., AudioTrainer]
logits = arrays(np.float32, (3, 4, 5), elements=st.floats(-30, 30, width=32))


class TestMeanWeights:
    def test_is_the_mean_in_double_precision(self) -> None:
        generator = torch.Generator().manual_seed(0)
        states = [{"w": torch.randn(5, 3, generator=generator), "n": torch.tensor(step)} for step in (7, 8, 9)]
        mean = mean_weights(states)
        expected = np.mean([state["w"].double().numpy() for state in states], axis=0).astype(np.float32)
        np.testing.assert_array_equal(mean["w"].numpy(), expected)
        assert mean["w"].dtype == torch.float32
        assert mean["n"] == 7

    def test_half_precision_is_rounded_once(self) -> None:
        states = [{"w": torch.tensor([1.0 + 2**-7, 300.0], dtype=torch.bfloat16)}] * 3
        np.testing.assert_array_equal(mean_weights(states)["w"].float(), states[0]["w"].float())

    def test_states_may_share_memory(self) -> None:
        shared = torch.zeros(2)

        def states() -> Any:
            for value in (1.0, 2.0, 6.0):
                shared.fill_(value)
                yield {"w": shared}

        np.testing.assert_array_equal(mean_weights(states())["w"], [3.0, 3.0])


class TestChoice:
    LOG = [  # noqa: RUF012  # not changed
        {"step": 1, "eval_loss": 0.9, "eval_accuracy": 0.2},
        {"step": 1, "loss": 0.5},
        {"step": 2, "eval_loss": 0.5, "eval_accuracy": 0.7},
        {"step": 3, "eval_loss": 0.6, "eval_accuracy": 0.7},
        {"step": 4, "eval_loss": 0.8, "eval_accuracy": 0.4},
        {"step": 5, "eval_loss": 0.1, "eval_accuracy": 0.9},
    ]

    @pytest.mark.parametrize(
        ("metric", "greater", "last", "expected"),
        [
            ("accuracy", True, 9, [3, 2, 4]),
            ("eval_loss", False, 9, [2, 3, 4]),
            (None, False, 9, [6, 4, 3]),
            (None, False, 4, [4, 3, 2]),
            ("accuracy", True, 3, [3, 2, 1]),
        ],
    )
    def test_best_or_last(
        self, tmp_path: Path, metric: str | None, greater: bool, last: int, expected: list[int]
    ) -> None:
        for step in (1, 2, 3, 4, 6):  # 5 was deleted, 6 was not validated
            (tmp_path / f"checkpoint-{step}").mkdir()
        chosen = chosen_checkpoints(tmp_path, self.LOG, 3, metric=metric, greater_is_better=greater, last_step=last)
        assert [path.name for path in chosen] == [f"checkpoint-{step}" for step in expected]


class TestShifts:
    def test_are_those_of_htsat_in_frames(self) -> None:
        samples = np.cumsum([0, *(100 * (index + 1) for index in range(9))])
        got = time_shifts(10, 100.0)
        assert got[0] == 0
        assert len(set(got)) == 10
        # The first ones are less than a frame apart; from there on they are the nearest frames.
        np.testing.assert_array_equal(got[5:], np.rint(samples / 320)[5:])
        assert np.abs(np.array(got) - samples / 320).max() <= 1.2

    @given(st.integers(1, 30), st.floats(1, 500))
    def test_grow(self, count: int, rate: float) -> None:
        shifts = time_shifts(count, rate)
        assert len(shifts) == count
        assert all(later > earlier for earlier, later in pairwise(shifts))


class TestOutputs:
    @given(logits)
    def test_probabilities_are_averaged(self, outputs: np.ndarray) -> None:
        passes = list(outputs)
        single = average_outputs("single_label_classification", passes)
        expected = softmax(outputs.astype(np.float64), axis=-1).mean(axis=0)
        np.testing.assert_allclose(softmax(single, axis=-1), expected, rtol=1e-9)
        multi = average_outputs("multi_label_classification", passes)
        np.testing.assert_allclose(expit(multi), expit(outputs.astype(np.float64)).mean(axis=0), rtol=1e-9)
        values = average_outputs("regression", passes)
        np.testing.assert_allclose(values, outputs.astype(np.float64).mean(axis=0), atol=1e-12)

    def test_certain_outputs_stay_finite(self) -> None:
        extreme = np.array([[[1e4, -1e4]]], dtype=np.float32)
        for problem in ("single_label_classification", "multi_label_classification"):
            mean = average_outputs(problem, [*extreme, *extreme])
            assert np.isfinite(mean).all()
            assert mean.argmax() == 0


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_is_mean(run: AudioTrainer, folders: list[Path]) -> None:
    states = [weights_of(folder) for folder in folders]
    for name, tensor in run.model.state_dict().items():
        expected = np.mean([state[name].double().numpy() for state in states], axis=0)
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6, atol=1e-9, err_msg=name)


class TestTraining:
    SETTINGS = {"num_train_epochs": 4, "average_checkpoints": 2, "save_total_limit": 2, "learning_rate": 1e-2}  # noqa: RUF012

    def test_result_is_the_mean_of_the_best(self, make_trainer: MakeTrainer, tmp_path: Path) -> None:
        run = make_trainer(tmp_path / "run", metric_for_best_model="loss", **self.SETTINGS)
        run.train()
        losses = {e["step"]: e["eval_loss"] for e in run.state.log_history if "eval_loss" in e}
        best = sorted(losses, key=losses.__getitem__)[:2]
        assert run.averaged_steps == sorted(best)
        folders = {path.name for path in (tmp_path / "run").glob("checkpoint-*")}
        assert folders == {f"checkpoint-{step}" for step in {*best, 9, 12}}, "the best two, and the last two"
        assert_is_mean(run, [tmp_path / "run" / f"checkpoint-{step}" for step in best])

    def test_without_validation_the_last_ones(
        self, make_trainer: MakeTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings = {**self.SETTINGS, "eval_strategy": "no", "load_best_model_at_end": False}
        run = make_trainer(tmp_path / "run", **settings)
        run.train()
        assert run.averaged_steps == [9, 12]
        assert_is_mean(run, [tmp_path / "run" / f"checkpoint-{step}" for step in (9, 12)])
        with caplog.at_level(logging.WARNING):
            short = make_trainer(tmp_path / "short", **{**settings, "num_train_epochs": 1})
            short.train()
        assert "there are 1, not 2" in caplog.text
        assert_is_mean(short, [tmp_path / "short" / f"checkpoint-{step}" for step in (3,)])

    @pytest.mark.parametrize("after", [7, 12])
    def test_resumed_run_has_the_same_mean(self, make_trainer: MakeTrainer, tmp_path: Path, after: int) -> None:
        straight = make_trainer(tmp_path / "straight", **self.SETTINGS)
        straight.train()
        crash(make_trainer(tmp_path / "crashed", **self.SETTINGS), after)
        resumed = make_trainer(tmp_path / "crashed", **self.SETTINGS)
        resumed.train(resume_from_checkpoint=True)
        assert resumed.averaged_steps == straight.averaged_steps
        for name, tensor in straight.model.state_dict().items():
            assert torch.equal(resumed.model.state_dict()[name], tensor), name

    def test_crash_while_averaging_loses_nothing(
        self, make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = {**self.SETTINGS, "num_train_epochs": 2}
        crashing = make_trainer(tmp_path / "run", **settings)

        def no_power(*_: Any) -> None:
            raise Crash

        monkeypatch.setattr(crashing, "_load_from_checkpoint", no_power)
        with pytest.raises(Crash):
            crashing.train()
        resumed = make_trainer(tmp_path / "run", **settings)
        resumed.train(resume_from_checkpoint=True)
        assert resumed.averaged_steps == [3, 6]
        assert_is_mean(resumed, [tmp_path / "run" / f"checkpoint-{step}" for step in (3, 6)])

    def test_damaged_checkpoint_is_named(self, make_trainer: MakeTrainer, tmp_path: Path) -> None:
        settings = {**self.SETTINGS, "num_train_epochs": 2}
        make_trainer(tmp_path / "run", **settings).train()
        damaged = tmp_path / "run" / "checkpoint-3" / "model.safetensors"
        damaged.write_bytes(damaged.read_bytes()[:-10])
        with pytest.raises(CheckpointError, match=r"checkpoint-3 cannot be averaged: model\.safetensors has"):
            make_trainer(tmp_path / "run", **settings).train(resume_from_checkpoint=True)

    def test_validation_must_have_scored_a_checkpoint(self, make_trainer: MakeTrainer) -> None:
        arguments = {"eval_delay": 9, "num_train_epochs": 1, "load_best_model_at_end": False}
        run = make_trainer(**{**self.SETTINGS, **arguments}, metric_for_best_model="loss")
        with pytest.raises(CheckpointError, match="no checkpoint has a validation score"):
            run.train()
