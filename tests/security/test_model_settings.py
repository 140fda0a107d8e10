"""Pickles, code, configurations and feature extractors in a model folder: refused in little time, never run."""

import contextlib
import json
import os
import pickle
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_audio_mamba.errors import CheckpointError, HubError
from hf_audio_mamba.hub import check_model_folder, load_classifier
from tests.security.conftest import EditConfig
from tests.security.folder_tools import WEIGHTS, refusal

# Code (rows 43 to 45)


class _Shell:
    """Unpickles by running a shell command."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.witness}'",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "model.ckpt", "training_args.bin"])
def test_pickles_are_refused_and_never_run(model_folder: Path, tmp_path: Path, name: str) -> None:
    witness = tmp_path / "the pickle has run"
    payload = pickle.dumps(_Shell(witness))
    pickle.loads(payload)
    assert witness.exists(), "the payload of this test does nothing"
    witness.unlink()

    (model_folder / name).write_bytes(payload)
    load_classifier(model_folder)  # beside safetensors it is ignored
    (model_folder / WEIGHTS).unlink()
    message = refusal(model_folder)
    assert name in message
    assert "pickles can run code" in message
    assert not witness.exists()


def test_zip_bomb_is_not_opened(model_folder: Path) -> None:
    (model_folder / WEIGHTS).unlink()
    with zipfile.ZipFile(model_folder / "model.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data/0", bytes(50_000_000))
    assert "model.pth is not opened" in refusal(model_folder)


@pytest.mark.parametrize("file_name", ["config.json", "preprocessor_config.json"])
def test_code_in_the_folder_is_ignored(
    model_folder: Path, edit_config: EditConfig, tmp_path: Path, file_name: str
) -> None:
    witness = tmp_path / "the code has run"
    (model_folder / "evil.py").write_text(f"open({str(witness)!r}, 'w').close()\nclass Evil: pass\n")
    classes = ("AutoConfig", "AutoModel", "AutoModelForAudioClassification", "AutoFeatureExtractor")
    edit_config(file_name, auto_map=dict.fromkeys(classes, "evil.Evil"))
    model, _ = load_classifier(model_folder)
    assert type(model).__name__ == "MoMambaForAudioClassification"
    assert not witness.exists()


def test_code_for_an_unknown_model_type_is_neither_run_nor_asked_about(
    model_folder: Path, edit_config: EditConfig, tmp_path: Path
) -> None:
    witness = tmp_path / "the code has run"
    (model_folder / "evil.py").write_text(f"open({str(witness)!r}, 'w').close()\nclass Evil: pass\n")
    edit_config(model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
    # In a process of its own, with an input that would say yes to any question.
    code = f"from hf_audio_mamba.hub import load_classifier; load_classifier({str(model_folder)!r})"
    result = subprocess.run(
        [sys.executable, "-c", code], input="y\ny\n", capture_output=True, text=True, timeout=300, check=False
    )
    assert "CheckpointError" in result.stderr.splitlines()[-1]
    assert not witness.exists()


# Configurations (rows 45 and 46)


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": "large"},
        {"hidden_size": -16},
        {"hidden_size": 0},
        {"hidden_size": 16.5},
        {"hidden_size": [16]},
        {"hidden_size": 10**9},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 10**400},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": True},
        {"num_labels": 10**9},
        {"state_size": 10**9},
        {"conv_kernel": 0},
        {"expand": 10**6},
        {"num_mel_bins": -1},
        {"hidden_dropout": 2.0},
        {"hidden_dropout": float("nan")},
        {"layer_norm_eps": "small"},
        {"cls_position": "somewhere"},
        {"problem_type": "magic"},
        {"dtype": "float1024"},
        {"dtype": "__import__('os')"},
        {"model_type": "no_such_model"},
        {"model_type": 3},
        {"model_type": ["momamba"]},
        {"id2label": {"0": "cat", "2": "dog", "3": "owl"}, "label2id": {"cat": 0, "dog": 2, "owl": 3}},
        {"id2label": {"0": "cat", "1": "cat", "2": "owl"}, "label2id": {"cat": 0, "owl": 2}},
        {"id2label": {"0": "cat", "1": "cat", "2": "owl"}},
        {"id2label": {"zero": "cat"}},
        {"id2label": ["cat", "dog", "owl"]},
        {"label2id": {"cat": 0, "dog": 2, "owl": 1}},
        {"label2id": {"cat": 0, "dog": 1}},
        {"label2id": "cat"},
    ],
    ids=str,
)
def test_unusable_configuration(model_folder: Path, edit_config: EditConfig, fields: dict[str, Any]) -> None:
    edit_config(**fields)
    assert "config.json" in refusal(model_folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}},
        {"id2label": {"0": "a", "1": "b", "2": "c", "3": "d"}, "label2id": {"a": 0, "b": 1, "c": 2, "d": 3}},
    ],
)
def test_label_count_that_is_not_the_heads(model_folder: Path, edit_config: EditConfig, fields: dict[str, Any]) -> None:
    edit_config(**fields)
    message = refusal(model_folder)
    labels = len(fields["id2label"])
    assert f"{labels} labels" in message
    assert f"classifier.bias (3,) in the weights, ({labels},) by config.json" in message


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", '{"a": 1} x', "[" * 100_000, '{"a":' * 100_000, '{"model_type": NaN}', "\ud83d"],
)
def test_configuration_that_is_no_json_object(model_folder: Path, text: str) -> None:
    (model_folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert "config.json" in refusal(model_folder)


def test_configuration_with_a_key_twice(model_folder: Path) -> None:
    path = model_folder / "config.json"
    path.write_text(path.read_text().replace('"0": "cat",', '"0": "cat", "0": "dog",'))
    assert "the key '0' is there twice" in refusal(model_folder)


def test_endless_configuration_is_not_read(model_folder: Path) -> None:
    with (model_folder / "config.json").open("r+b") as stream:
        stream.truncate(10_000_000_000)
    assert "10,000,000,000 bytes" in refusal(model_folder)


def test_configuration_missing(model_folder: Path) -> None:
    (model_folder / "config.json").unlink()
    assert "config.json is missing" in refusal(model_folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling_rate": -1},
        {"sampling_rate": "44100"},
        {"n_fft": 10**12},
        {"hop_length": 0},
        {"feature_extractor_type": "Evil"},
        {"num_mel_bins": 7, "feature_size": 7},
        {"spelling": 1},
    ],
    ids=str,
)
def test_unusable_feature_extractor(model_folder: Path, edit_config: EditConfig, fields: dict[str, Any]) -> None:
    edit_config("preprocessor_config.json", **fields)
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        load_classifier(model_folder)


def test_feature_extractor_missing(model_folder: Path) -> None:
    (model_folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json is missing"):
        load_classifier(model_folder)


def test_no_such_folder_and_no_such_repository(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a folder"):
        check_model_folder(tmp_path / "missing")
    for name in (str(tmp_path / "missing"), "owner/never-cached"):
        start = time.process_time()
        with pytest.raises(HubError) as caught:
            load_classifier(name)
        assert time.process_time() - start < 5
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


# Anything else: whatever a file holds, the check passes or raises its own error.

_FUZZ = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@_FUZZ
@given(position=st.floats(0, 1, exclude_max=True), garbage=st.binary(min_size=1, max_size=40))
def test_overwritten_bytes_never_raise_anything_else(model_folder: Path, position: float, garbage: bytes) -> None:
    for name in (WEIGHTS, "config.json"):
        intact = (model_folder / name).read_bytes()
        start = int(position * len(intact))
        (model_folder / name).write_bytes(intact[:start] + garbage + intact[start + len(garbage) :])
        try:
            with contextlib.suppress(CheckpointError):
                check_model_folder(model_folder)
        finally:
            (model_folder / name).write_bytes(intact)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@_FUZZ
@given(data=st.data(), value=_JSON)
def test_fields_of_any_type_never_raise_anything_else(model_folder: Path, data: st.DataObject, value: Any) -> None:
    path = model_folder / "config.json"
    intact = path.read_text()
    content = json.loads(intact)
    content[data.draw(st.sampled_from([*sorted(content), "num_labels", "problem_type", "auto_map"]))] = value
    path.write_text(json.dumps(content))
    try:
        with contextlib.suppress(CheckpointError):
            check_model_folder(model_folder)
    finally:
        path.write_text(intact)
