"""Model folders that are damaged, contradictory or hostile: a CheckpointError each, in little time and memory."""

import contextlib
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification, AutoModelForAudioClassification

from hf_audio_mamba import MoMambaModel
from hf_audio_mamba.errors import CheckpointError, HubError
from hf_audio_mamba.hub import check_model_folder, load_classifier
from tests.security.conftest import EditConfig

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Tensors = dict[str, torch.Tensor]


def edit_tensors(folder: Path, edit: Callable[[Tensors], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def write_raw(folder: Path, header: dict[str, Any], data: bytes, *, length: int | None = None) -> None:
    """Write a safetensors file by hand: 8 bytes of header length, header, data."""
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text) if length is None else length) + text + data
    (folder / WEIGHTS).write_bytes(content)


def split_into_shards(folder: Path) -> dict[str, str]:
    """Replace the weights by two shards and an index; return the weight map."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file_name = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file_name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file_name))
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def refusal(folder: Path) -> str:
    """The message with which both entry points refuse a folder, quickly."""
    start = time.perf_counter()
    with pytest.raises(CheckpointError) as checked:
        check_model_folder(folder)
    assert time.perf_counter() - start < 2
    with pytest.raises(CheckpointError) as loaded:
        load_classifier(folder)
    assert str(loaded.value) == str(checked.value)
    return str(checked.value)


def test_intact_folder_passes_and_loads_as_the_auto_class_does(model_folder: Path) -> None:
    check_model_folder(model_folder)
    model, extractor = load_classifier(model_folder)
    expected = AutoModelForAudioClassification.from_pretrained(model_folder)
    assert not model.training
    assert extractor.feature_size == model.config.num_mel_bins == 6
    for (name, ours), (other, theirs) in zip(model.state_dict().items(), expected.state_dict().items(), strict=True):
        assert name == other
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_sharded_folder_passes_and_loads(model_folder: Path) -> None:
    expected = load_classifier(model_folder)[0].state_dict()
    split_into_shards(model_folder)
    check_model_folder(model_folder)
    loaded = load_classifier(model_folder)[0].state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_bfloat16_weights_pass(model_folder: Path, edit_config: EditConfig) -> None:
    edit_tensors(model_folder, lambda tensors: tensors.update({k: t.bfloat16() for k, t in tensors.items()}))
    edit_config(dtype="bfloat16")
    assert load_classifier(model_folder)[0].dtype == torch.bfloat16


def test_model_without_a_head_passes_the_check_but_is_no_classifier(intact_folder: Path, tmp_path: Path) -> None:
    MoMambaModel.from_pretrained(intact_folder).save_pretrained(tmp_path)
    check_model_folder(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes((intact_folder / "preprocessor_config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"lacks classifier\.bias, classifier\.weight"):
        load_classifier(tmp_path)


def test_models_of_transformers_itself_load_too(tmp_path: Path) -> None:
    config = ASTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_mel_bins=16, max_length=24
    )
    torch.manual_seed(0)
    saved = ASTForAudioClassification(config)
    saved.save_pretrained(tmp_path)
    ASTFeatureExtractor(num_mel_bins=16, max_length=24).save_pretrained(tmp_path)
    model, extractor = load_classifier(tmp_path)
    assert isinstance(extractor, ASTFeatureExtractor)
    inputs = torch.zeros(1, 24, 16)
    torch.testing.assert_close(model(inputs).logits, saved.eval()(inputs).logits)


# Weights (rows 38 to 42, 47 to 49)


@pytest.mark.parametrize("keep", [0.0, 1e-4, 0.01, 0.5, 0.99])
def test_truncated_weights(model_folder: Path, keep: float) -> None:
    content = (model_folder / WEIGHTS).read_bytes()
    (model_folder / WEIGHTS).write_bytes(content[: int(len(content) * keep)])
    message = refusal(model_folder)
    assert WEIGHTS in message
    assert "truncated or damaged" in message


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**40, 200_000_000, 0])
def test_lying_header_length(model_folder: Path, length: int) -> None:
    content = (model_folder / WEIGHTS).read_bytes()
    (model_folder / WEIGHTS).write_bytes(struct.pack("<Q", length) + content[8:])
    assert "truncated or damaged" in refusal(model_folder)


@pytest.mark.parametrize(
    "offsets",
    [
        pytest.param([(0, 8), (4, 12)], id="overlap"),
        pytest.param([(0, 8), (12, 20)], id="hole"),
        pytest.param([(0, 8), (8, 2**40)], id="beyond the file"),
        pytest.param([(8, 0), (8, 16)], id="backwards"),
        pytest.param([(0, 8), (8, 12)], id="fewer bytes than the shape"),
    ],
)
def test_impossible_offsets(model_folder: Path, offsets: list[tuple[int, int]]) -> None:
    header = {
        f"tensor{number}": {"dtype": "F32", "shape": [2], "data_offsets": list(pair)}
        for number, pair in enumerate(offsets)
    }
    write_raw(model_folder, header, bytes(20))
    assert "truncated or damaged" in refusal(model_folder)


@pytest.mark.parametrize("shape", [[2**62, 4], [2**32, 2**32], [-1], [0.5]])
def test_impossible_shapes(model_folder: Path, shape: list[float]) -> None:
    write_raw(model_folder, {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]}}, bytes(8))
    assert "truncated or damaged" in refusal(model_folder)


def test_missing_tensors_are_named(model_folder: Path) -> None:
    edit_tensors(model_folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "norm" in name])
    message = refusal(model_folder)
    assert "4 missing: momamba.layers.0.norm.bias, momamba.layers.0.norm.weight" in message
    assert "and 1 more" in message


def test_unknown_tensors_are_named(model_folder: Path) -> None:
    edit_tensors(model_folder, lambda tensors: tensors.update(backdoor=torch.zeros(3)))
    assert "1 unknown: backdoor" in refusal(model_folder)


def test_tensors_of_another_shape_are_named_with_both_shapes(model_folder: Path) -> None:
    edit_tensors(model_folder, lambda tensors: tensors.update({"classifier.bias": torch.zeros(7)}))
    assert "classifier.bias (7,) in the weights, (3,) by config.json" in refusal(model_folder)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8, torch.float8_e4m3fn])
def test_tensors_of_another_type_are_named(model_folder: Path, dtype: torch.dtype) -> None:
    edit_tensors(model_folder, lambda tensors: tensors.update({"classifier.bias": torch.zeros(3).to(dtype)}))
    assert "not of a floating-point type: classifier.bias" in refusal(model_folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(model_folder: Path, value: float) -> None:
    def poison(tensors: Tensors) -> None:
        tensors["momamba.embeddings.projection.weight"][3, 4] = value

    edit_tensors(model_folder, poison)
    message = refusal(model_folder)
    assert "momamba.embeddings.projection.weight holds NaN or infinite values" in message
    assert WEIGHTS in message


def test_weights_of_another_size_name_both(model_folder: Path, edit_config: EditConfig) -> None:
    edit_config(hidden_size=32)
    message = refusal(model_folder)
    assert "momamba.embeddings.cls_token (1, 1, 16) in the weights, (1, 1, 32) by config.json" in message


def test_more_layers_than_the_weights_hold(model_folder: Path, edit_config: EditConfig) -> None:
    edit_config(num_hidden_layers=1024)
    assert "1024 layers, but the weights hold 49 tensors" in refusal(model_folder)
    edit_config(num_hidden_layers=3)
    assert "22 missing" in refusal(model_folder)


def test_sizes_are_never_allocated(model_folder: Path, edit_config: EditConfig) -> None:
    # 65 536 units would ask for terabytes if the model were built before it is compared.
    edit_config(hidden_size=65_536, expand=16, position_encoding="learned", max_position_embeddings=10_000_000)
    assert "of another size" in refusal(model_folder)


def test_no_weights_at_all(model_folder: Path) -> None:
    (model_folder / WEIGHTS).unlink()
    assert f"holds no {WEIGHTS}" in refusal(model_folder)
    (model_folder / WEIGHTS).mkdir()
    assert f"holds no {WEIGHTS}" in refusal(model_folder)


def test_missing_shard(model_folder: Path) -> None:
    weight_map = split_into_shards(model_folder)
    shard = weight_map["classifier.bias"]
    (model_folder / shard).unlink()
    message = refusal(model_folder)
    assert shard in message
    assert "is missing" in message


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/secret.safetensors", "a/b.safetensors", "..\\secret.safetensors"]
)
def test_index_that_leads_out_of_the_folder(model_folder: Path, name: str) -> None:
    weight_map = split_into_shards(model_folder)
    (model_folder.parent / "secret.safetensors").write_bytes(b"secret")
    write_index(model_folder, {**weight_map, "classifier.bias": name})
    message = refusal(model_folder)
    assert "not a plain file name" in message
    assert INDEX in message


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_link_that_leads_out_of_the_folder(model_folder: Path, name: str) -> None:
    outside = model_folder.parent / "outside"
    (model_folder / name).rename(outside)
    (model_folder / name).symlink_to(outside)
    assert f"a link to {outside}" in refusal(model_folder)


def test_linked_shard(model_folder: Path) -> None:
    shard = model_folder / split_into_shards(model_folder)["classifier.bias"]
    outside = model_folder.parent / "outside.safetensors"
    shard.rename(outside)
    shard.symlink_to(outside)
    assert shard.name in refusal(model_folder)


def test_links_of_the_hub_cache_are_followed(model_folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--model" / "snapshots" / "abc"
    blobs = tmp_path / "models--owner--model" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(model_folder.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", str(number)))
    check_model_folder(snapshot)


@pytest.mark.parametrize("weight_map", [None, [], {}, {"a": 3}, {"a": "model.bin"}, {"a": None}])
def test_index_that_is_no_index(model_folder: Path, weight_map: Any) -> None:
    split_into_shards(model_folder)
    write_index(model_folder, weight_map)
    assert INDEX in refusal(model_folder)


def test_index_and_shards_that_contradict_each_other(model_folder: Path) -> None:
    weight_map = split_into_shards(model_folder)
    other = next(name for name in weight_map.values() if name != weight_map["classifier.bias"])
    write_index(model_folder, {**weight_map, "classifier.bias": other})
    assert "classifier.bias" in refusal(model_folder)
    write_index(model_folder, weight_map)
    save_file(load_file(model_folder / other), model_folder / "copy.safetensors")
    write_index(model_folder, {**weight_map, "x": "copy.safetensors"})
    assert "and again in" in refusal(model_folder)


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
        [sys.executable, "-c", code], input="y\ny\n", capture_output=True, text=True, timeout=60, check=False
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
        start = time.perf_counter()
        with pytest.raises(HubError) as caught:
            load_classifier(name)
        assert time.perf_counter() - start < 5
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
