"""Every field of AuMConfig is checked."""

from dataclasses import fields
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from hf_audio_mamba import AuMConfig, AuMFeatureExtractor

BAD_VALUES: list[tuple[str, Any]] = [
    ("hidden_size", 0),
    ("hidden_size", 16.0),
    ("hidden_size", 10**9),
    ("num_hidden_layers", 0),
    ("num_hidden_layers", 10**9),
    ("state_size", 0),
    ("state_size", 65),
    ("conv_kernel", 0),
    ("expand", -2),
    ("num_mel_bins", 0),
    ("num_mel_bins", "128"),
    ("num_mel_bins", 100),
    ("max_length", 0),
    ("max_length", 1000),
    ("max_length", 16 * 10**9),
    ("patch_size", 0),
    ("patch_size", 3),
    ("bimamba_type", "v1"),
    ("divide_output", 1),
    ("cls_position", "start"),
    ("transpose_token_sequence", None),
    ("residual_in_fp32", "yes"),
    ("rms_norm_eps", 0.0),
    ("initializer_range", "small"),
    ("initializer_range", 0.0),
    ("padding_value", "silence"),
    ("padding_value", float("nan")),
    ("problem_type", "ranking"),
]


@pytest.mark.parametrize(("field", "value"), BAD_VALUES)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(StrictDataclassError, match=field):
        AuMConfig(**{field: value})


def test_every_field_of_its_own_is_covered_above() -> None:
    own = {f.name for f in fields(AuMConfig)} - {f.name for f in fields(PreTrainedConfig)}
    assert own <= {field for field, _ in BAD_VALUES}


def test_a_length_between_two_patches_is_named_with_both() -> None:
    with pytest.raises(StrictDataclassError, match="2992 or 3008"):
        AuMConfig(max_length=3001)
    with pytest.raises(StrictDataclassError, match="take 16 or 32"):
        AuMConfig(max_length=17)
    with pytest.raises(StrictDataclassError, match=r"take 16$"):
        AuMConfig(num_mel_bins=3)


def test_other_libraries_names_for_sizes_work() -> None:
    config = AuMConfig(d_model=64, num_layers=3)
    assert (config.hidden_size, config.num_hidden_layers, config.d_model) == (64, 3, 64)
    assert (config.intermediate_size, config.patch_grid) == (128, (8, 64))


def test_short_clips_are_padded_as_the_extractor_pads_them() -> None:
    assert AuMConfig().padding_value == pytest.approx(AuMFeatureExtractor().padding_value)
