from pathlib import Path

import pytest

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.training import AudioTrainingArguments, DataArguments, ModelArguments
from hf_audio_mamba.training.assignments import check_names, parse_assignments


def test_assignments_are_read_as_json_or_text() -> None:
    text = 'hidden_size=128, residual=false,eps=1e-5,pooling=mean,regression_hidden_size=null,name="7"'
    assert parse_assignments(text, option="--x") == {
        "hidden_size": 128,
        "residual": False,
        "eps": 1e-5,
        "pooling": "mean",
        "regression_hidden_size": None,
        "name": "7",
    }


def test_assignments_may_be_a_json_object_or_nothing() -> None:
    assert parse_assignments('{"stages": [2, 2], "name": "a,b"}', option="--x") == {"stages": [2, 2], "name": "a,b"}
    assert parse_assignments(None, option="--x") == parse_assignments(" ", option="--x") == {}


@pytest.mark.parametrize("text", ["hidden_size", "=3", "a=1,,b=2", "a=1,a=2", '{"a": 1', "{}{"])
def test_broken_assignments_are_refused_by_option(text: str) -> None:
    with pytest.raises(UsageError, match="--config_overrides"):
        parse_assignments(text, option="--config_overrides")


def test_unknown_name_comes_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match=r"there is no 'hiden_size'; did you mean 'hidden_size'\?"):
        check_names({"hiden_size": 3}, {"hidden_size", "state_size"}, option="--config_overrides")
    check_names({"hidden_size": 3}, {"hidden_size"}, option="--config_overrides")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "--data_dir FOLDER or --dataset_name ID"),
        ({"data_dir": "a", "dataset_name": "b"}, "one of them"),
        ({"dataset_name": "b", "metadata": "m.csv"}, "--metadata"),
        ({"data_dir": "a", "problem_type": "clustering"}, "problem_type 'clustering'"),
        ({"data_dir": "a", "validation_fraction": 1.0}, "--validation_fraction"),
        ({"data_dir": "a", "max_corrupt_fraction": -0.1}, "--max_corrupt_fraction"),
        ({"data_dir": "a", "num_feature_workers": 0}, "--num_feature_workers"),
        ({"data_dir": "a", "max_seconds": 0.0}, "--max_seconds"),
        ({"data_dir": "a", "split_seed": -1}, "--split_seed"),
        ({"data_dir": "a", "validation_fold": "2"}, "--validation_fold needs --fold"),
        ({"data_dir": "a", "label_range": [1.0]}, "--label_range"),
    ],
)
def test_data_arguments_refuse_contradictions(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DataArguments(**arguments)


def test_model_arguments_are_either_scratch_or_fine_tuning() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        ModelArguments(model_name_or_path="a", config_name="b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_dir": None}, "--output_dir is missing"),
        ({"resume": True, "overwrite_output_dir": True}, "exclude each other"),
        ({"resume": True, "resume_from_checkpoint": "x"}, "--resume_from_checkpoint"),
        ({"remove_unused_columns": True}, "must stay false"),
        ({"early_stopping_patience": 0}, "--early_stopping_patience"),
        ({"bootstrap_resamples": -1}, "--bootstrap_resamples"),
        ({"seed": -1}, "--seed"),
        ({"eval_strategy": "sometimes"}, "sometimes"),
        ({"save_strategy": "steps", "save_steps": 10}, "save and eval strategy"),
        ({"lr_scheduler_type": "zigzag"}, "zigzag"),
        ({"lr_scheduler_type": "htsat"}, "htsat needs rates"),
        ({"lr_scheduler_type": "epoch_decay", "lr_scheduler_kwargs": "start=2"}, "not a JSON object"),
        ({"average_checkpoints": 1}, "--average_checkpoints is 1"),
        ({"average_checkpoints": 3, "save_total_limit": 1}, "--average_checkpoints needs checkpoints"),
        (
            {"average_checkpoints": 3, "save_strategy": "no", "load_best_model_at_end": False},
            "--average_checkpoints needs checkpoints",
        ),
        ({"single_label_loss": "hinge"}, "--single_label_loss 'hinge'"),
        ({"single_label_loss": "binary_cross_entropy", "label_smoothing_factor": 0.1}, "--label_smoothing_factor"),
        ({"test_time_shifts": 0}, "--test_time_shifts is 0"),
    ],
)
def test_training_arguments_refuse_contradictions(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AudioTrainingArguments(**{"output_dir": str(tmp_path), "use_cpu": True, **arguments})


def test_metric_stays_open_until_the_problem_is_known(tmp_path: Path) -> None:
    args = AudioTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert args.load_best_model_at_end
    assert args.metric_for_best_model is None
    loss = AudioTrainingArguments(output_dir=str(tmp_path), use_cpu=True, metric_for_best_model="loss")
    assert loss.metric_for_best_model == "loss"
