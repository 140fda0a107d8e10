"""Model folders that are damaged, contradictory or hostile: a CheckpointError each, in little time and memory."""

import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification, AutoModelForAudioClassification

from hf_audio_mamba import MoMambaModel
from hf_audio_mamba.errors import CheckpointError
from hf_audio_mamba.hub import check_model_folder, load_classifier
from tests.security.conftest import EditConfig
from tests.security.folder_tools import (
    INDEX,
    WEIGHTS,
    Tensors,
    edit_tensors,
    refusal,
    split_into_shards,
    write_index,
    write_raw,
)


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
