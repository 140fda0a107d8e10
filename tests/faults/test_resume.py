"""A run that is interrupted and resumed ends with the weights of one that was not."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForAudioClassification, TrainerCallback

from hf_audio_mamba.data import AugmentationConfig
from hf_audio_mamba.errors import CheckpointError
from hf_audio_mamba.training import AudioTrainer, trainer

MakeTrainer = Callable[..., AudioTrainer]
STEPS = 9  # three epochs of three
CUT = AugmentationConfig(cutmix_alpha=1.0, time_roll_frames=3, feature_noise=0.1, spec_augment_mean=True)
SETTINGS: dict[str, Any] = {
    "augmentation": AugmentationConfig(mixup_alpha=0.4, time_shift=0.2),
    "save_strategy": "steps",
    "eval_strategy": "epoch",
    "save_steps": 2,
    "load_best_model_at_end": False,
    "save_total_limit": 2,
}


class Crash(BaseException):
    """Ends a run at a place that the test chooses; nothing catches it, as nothing catches a power cut."""


class _CrashAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            raise Crash


def weights(run: AudioTrainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])


def crash(run: AudioTrainer, after: int) -> None:
    run.add_callback(_CrashAfter(after))
    with pytest.raises(Crash):
        run.train()


# Step 3 ends an epoch; 5 and 7 are in the middle of one; steps 2, 4, 6 and 8 have checkpoints.
@pytest.mark.parametrize(
    ("after", "arguments"),
    [
        pytest.param(3, {}, id="at the end of an epoch"),
        pytest.param(5, {}, id="in mid-epoch"),
        pytest.param(7, {}, id="from a checkpoint at the end of an epoch"),
        pytest.param(5, {"train_sampling_strategy": "class_balanced"}, id="balanced"),
        pytest.param(5, {"train_sampling_strategy": "group_by_length"}, id="by length"),
        pytest.param(5, {"train_sampling_strategy": "class_queue", "augmentation": CUT}, id="class queue and CutMix"),
        pytest.param(
            5,
            {"lr_scheduler_type": "htsat", "lr_scheduler_kwargs": {"rates": [0.1, 1.0], "epochs": [2, 4]}},
            id="by HTS-AT's rates",
        ),
        pytest.param(
            5,
            {
                "lr_scheduler_type": "epoch_decay",
                "lr_scheduler_kwargs": {"start": 2, "gamma": 0.5, "warmup_stair": 2},
                "warmup_steps": 6,
            },
            id="by decay an epoch",
        ),
        pytest.param(3, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, id="accumulating"),
        pytest.param(5, {"dataloader_num_workers": 2}, id="with workers", marks=pytest.mark.slow),
        pytest.param(
            5,
            {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
            id="with workers that stay",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_resumed_run_equals_uninterrupted_run(
    make_trainer: MakeTrainer, tmp_path: Path, after: int, arguments: dict[str, Any]
) -> None:
    settings = {**SETTINGS, **arguments}
    straight = make_trainer(tmp_path / "straight", **{**settings, "save_strategy": "no"})
    straight.train()
    crash(make_trainer(tmp_path / "crashed", **settings), after)
    resumed = make_trainer(tmp_path / "crashed", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == STEPS
    assert torch.equal(weights(resumed), weights(straight))


def test_early_stopping_continues_where_it_was(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    # With no learning the first evaluation stays the best, and the run must stop after the third, crash or not.
    arguments = {"early_stopping_patience": 2, "learning_rate": 1e-12, "num_train_epochs": 6}
    crash(make_trainer(tmp_path / "run", **arguments), 7)
    resumed = make_trainer(tmp_path / "run", **arguments)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == STEPS
    assert resumed.state.best_global_step == 3


@pytest.mark.parametrize("during", ["_save_optimizer_and_scheduler", "_save_rng_state"])
def test_crash_during_a_save_leaves_the_checkpoint_before(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    straight = make_trainer(tmp_path / "straight", **SETTINGS)
    straight.train()
    crashing = make_trainer(tmp_path / "crashed", **SETTINGS)
    original = getattr(crashing, during)

    def crash_at_step_4(folder: str) -> None:
        if crashing.state.global_step == 4:
            raise Crash
        original(folder)

    # As a killed process would, leave the half-written folder where it is.
    monkeypatch.setattr(crashing, during, crash_at_step_4)
    with monkeypatch.context() as patch:
        patch.setattr(trainer.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Crash):
            crashing.train()
    assert sorted(path.name for path in (tmp_path / "crashed").iterdir()) == [".partial-checkpoint-4", "checkpoint-2"]

    resumed = make_trainer(tmp_path / "crashed", **SETTINGS)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(resumed), weights(straight))
    assert not (tmp_path / "crashed" / ".partial-checkpoint-4").exists()


@pytest.fixture
def interrupted(make_trainer: MakeTrainer, tmp_path: Path) -> Path:
    """A run with checkpoints 2 and 4 that ended at step 5."""
    crash(make_trainer(tmp_path / "run", **SETTINGS), 5)
    return tmp_path / "run"


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json"])
def test_truncated_checkpoint_is_skipped_and_named(
    make_trainer: MakeTrainer, interrupted: Path, caplog: pytest.LogCaptureFixture, name: str, kept: float
) -> None:
    newest = interrupted / "checkpoint-4" / name
    newest.write_bytes(newest.read_bytes()[: int(kept * newest.stat().st_size)])
    resumed = make_trainer(interrupted, **SETTINGS, max_steps=3)
    with caplog.at_level(logging.WARNING):
        resumed.train(resume_from_checkpoint=True)
    assert f"Skipping the incomplete checkpoint {newest.parent}: {name}" in caplog.text
    assert f"Resuming from {interrupted / 'checkpoint-2'}" in caplog.text


def test_resume_never_starts_over_silently(make_trainer: MakeTrainer, interrupted: Path) -> None:
    for checkpoint in interrupted.glob("checkpoint-*"):
        (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint-4: model\.safetensors is missing.*--overwrite_output_dir"):
        make_trainer(interrupted, **SETTINGS).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_missing_state_is_an_error_unless_allowed(make_trainer: MakeTrainer, interrupted: Path, name: str) -> None:
    shutil.rmtree(interrupted / "checkpoint-2")
    (interrupted / "checkpoint-4" / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing.*--allow_partial_resume"):
        make_trainer(interrupted, **SETTINGS).train(resume_from_checkpoint=True)
    partial = make_trainer(interrupted, **SETTINGS, allow_partial_resume=True)
    partial.train(resume_from_checkpoint=True)
    assert partial.state.global_step == STEPS


@pytest.mark.parametrize("config", [{"num_hidden_layers": 2}, {"hidden_size": 12}])
def test_resume_with_another_model_is_an_error(
    make_trainer: MakeTrainer, interrupted: Path, config: dict[str, int]
) -> None:
    from tests.training.conftest import make_model

    with pytest.raises(CheckpointError, match="does not fit this model"):
        make_trainer(interrupted, model=make_model(**config), **SETTINGS).train(resume_from_checkpoint=True)


def test_named_checkpoint_must_be_complete(make_trainer: MakeTrainer, interrupted: Path) -> None:
    (interrupted / "checkpoint-4" / "scheduler.pt").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint-4 cannot be resumed from: scheduler\.pt is missing"):
        make_trainer(interrupted, **SETTINGS).train(resume_from_checkpoint=str(interrupted / "checkpoint-4"))


def test_run_without_checkpoints_starts_and_says_so(
    make_trainer: MakeTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        make_trainer(tmp_path / "new", **SETTINGS, max_steps=1).train(resume_from_checkpoint=True)
    assert "holds no checkpoint; training starts from the beginning" in caplog.text


def test_checkpoint_of_a_model_with_other_names_on_disk_resumes(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    # transformers stores ASTForAudioClassification under older names; its Trainer would resume from fresh layers.
    from transformers import ASTConfig, ASTForAudioClassification, set_seed

    def build() -> ASTForAudioClassification:
        set_seed(0)
        return ASTForAudioClassification(
            ASTConfig(
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=8,
                patch_size=4,
                frequency_stride=2,
                time_stride=2,
                max_length=16,
                num_mel_bins=6,
                hidden_dropout_prob=0.1,
                num_labels=3,
                problem_type="single_label_classification",
            )
        )

    arguments = {**SETTINGS, "eval_strategy": "no"}
    straight = make_trainer(tmp_path / "straight", model=build(), fixed_frames=16, **arguments)
    straight.train()
    crash(make_trainer(tmp_path / "crashed", model=build(), fixed_frames=16, **arguments), 5)
    resumed = make_trainer(tmp_path / "crashed", model=build(), fixed_frames=16, **arguments)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(resumed), weights(straight))


def test_older_checkpoints_are_deleted_and_the_best_one_stays(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    run = make_trainer(tmp_path / "run", num_train_epochs=5, learning_rate=1e-12, save_total_limit=2)
    run.train()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint-15", "checkpoint-3"]
    assert AutoModelForAudioClassification.from_pretrained(tmp_path / "run" / "checkpoint-3") is not None
