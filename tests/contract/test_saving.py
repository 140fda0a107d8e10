"""Invariants of saving, loading and initialising every model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForAudioClassification, PreTrainedModel

from tests.contract.model_cases import ModelCase


def test_save_and_load_keep_outputs_and_tensors(case: ModelCase, model: PreTrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded, info = AutoModelForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(loaded.eval()(case.inputs()).logits, model(case.inputs()).logits)


def test_the_base_model_loads_from_a_classifier(case: ModelCase, model: PreTrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    base = AutoModel.from_pretrained(tmp_path).eval()
    expected = model.base_model(case.inputs()).pooler_output
    assert torch.equal(base(case.inputs()).pooler_output, expected)


def test_tensors_that_a_checkpoint_lacks_are_initialised_as_in_a_new_model(case: ModelCase, tmp_path: Path) -> None:
    """Loading builds on the meta device: whatever `_init_weights` forgets would be uninitialised memory."""
    model = AutoModelForAudioClassification.from_config(case.config())
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 7.0)
    model.save_pretrained(tmp_path, state_dict={"unrelated": torch.zeros(1)})
    torch.manual_seed(0)
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)
    fresh = AutoModelForAudioClassification.from_config(case.config())
    for name, parameter in loaded.named_parameters():
        expected = dict(fresh.named_parameters())[name]
        assert torch.isfinite(parameter).all(), name
        torch.testing.assert_close(parameter.mean(), expected.mean(), atol=0.2, rtol=0.5, msg=name)
        torch.testing.assert_close(
            parameter.std(correction=0), expected.std(correction=0), atol=0.1, rtol=0.5, msg=name
        )


def test_another_number_of_labels_needs_permission(case: ModelCase, model: PreTrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForAudioClassification.from_pretrained(tmp_path, num_labels=5)
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert loaded(case.inputs()).logits.shape == (2, 5)
    assert torch.equal(
        loaded.base_model.state_dict()[next(iter(loaded.base_model.state_dict()))],
        model.base_model.state_dict()[next(iter(model.base_model.state_dict()))],
    )


def test_meta_device_holds_no_memory(case: ModelCase) -> None:
    with torch.device("meta"):
        model = AutoModelForAudioClassification.from_config(case.config())
    assert all(parameter.is_meta for parameter in model.parameters())


def test_dtype_is_kept(case: ModelCase, model: PreTrainedModel, tmp_path: Path) -> None:
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    assert AutoModelForAudioClassification.from_pretrained(tmp_path).dtype == torch.bfloat16
    assert AutoModelForAudioClassification.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32
