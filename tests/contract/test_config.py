"""Invariants of every model's configuration."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from hf_audio_mamba.models import MODEL_TYPES
from tests.contract.model_cases import CASES, ModelCase


def test_every_registered_model_has_a_case() -> None:
    assert {case.model_type for case in CASES} == set(MODEL_TYPES)


def test_config_survives_json_and_disk(case: ModelCase, tmp_path: Path) -> None:
    config = case.config(id2label={0: "a", 1: "b", 2: "c"}, problem_type="multi_label_classification")
    assert type(config)(**json.loads(config.to_json_string(use_diff=False))).to_dict() == config.to_dict()
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is type(config)
    # What differs says where and by which version a file was written, not what the model is.
    assert {**loaded.to_dict(), "_name_or_path": "", "transformers_version": None} == config.to_dict() | {
        "_name_or_path": "",
        "transformers_version": None,
    }


def test_common_attributes_are_there(case: ModelCase) -> None:
    config = case.config()
    assert config.model_type == case.model_type
    assert config.num_hidden_layers == case.num_blocks
    config.hidden_size = 32
    assert config.hidden_size == 32


@pytest.mark.parametrize("given", [{"id2label": {0: "cat", 1: "dog"}}, {"label2id": {"cat": 0, "dog": 1}}])
def test_one_label_map_is_enough(case: ModelCase, given: dict[str, dict[str, int]]) -> None:
    config = case.make_config(**given)
    assert config.id2label == {0: "cat", 1: "dog"}
    assert config.label2id == {"cat": 0, "dog": 1}
    assert config.num_labels == 2


@pytest.mark.parametrize(
    "labels",
    [
        {"id2label": {0: "a", 2: "b"}},
        {"id2label": {0: "a", 1: "a"}},
        {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}},
        {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1, "c": 2}},
        {"num_labels": 10**9},
        {"num_labels": 0},
    ],
    ids=["gap", "duplicate", "contradiction", "other size", "too many", "none"],
)
def test_label_maps_that_do_not_fit_are_refused(case: ModelCase, labels: dict[str, dict[int, str]]) -> None:
    with pytest.raises(Exception, match=r"label2id|id2label|num_labels"):
        case.make_config(**labels)


def test_one_label_map_replaces_both_of_a_stored_config(case: ModelCase, tmp_path: Path) -> None:
    case.make_config(id2label={0: "a", 1: "b"}).save_pretrained(tmp_path)
    renamed = AutoConfig.from_pretrained(tmp_path, id2label={0: "x", 1: "y"})
    assert (renamed.id2label, renamed.label2id) == ({0: "x", 1: "y"}, {"x": 0, "y": 1})
    grown = AutoConfig.from_pretrained(tmp_path, label2id={"x": 0, "y": 1, "z": 2})
    assert (grown.id2label, grown.num_labels) == ({0: "x", 1: "y", 2: "z"}, 3)


def test_one_output_is_regression_and_never_a_softmax_of_one(case: ModelCase) -> None:
    assert case.config(num_labels=1).problem_type == "regression"
    with pytest.raises(Exception, match="num_labels"):
        case.config(num_labels=1, problem_type="single_label_classification")


def test_unknown_problem_type_is_refused(case: ModelCase) -> None:
    with pytest.raises(Exception, match="problem_type"):
        case.config(problem_type="guessing")
