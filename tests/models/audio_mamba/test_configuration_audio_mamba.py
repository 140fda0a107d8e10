"""Every field of AudioMambaConfig is checked, and the geometry that follows from them."""

from dataclasses import fields
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from hf_audio_mamba import AudioMambaConfig

BAD_VALUES: list[tuple[str, Any]] = [
    ("embed_dim", 0),
    ("embed_dim", 41),
    ("embed_dim", 10**9),
    ("embed_dim", 40.0),
    ("depths", []),
    ("depths", [2, 0]),
    ("depths", [1] * 9),
    ("depths", [10**9, 1]),
    ("depths", "2292"),
    ("depths", 2),
    ("state_size", 0),
    ("state_size", 65),
    ("expand", 0.0),
    ("expand", "2"),
    ("gated", 1),
    ("conv_bias", "no"),
    ("mlp_ratio", -1),
    ("mlp_ratio", 1e9),
    ("stem", "v3"),
    ("downsample", "v4"),
    ("head", "tscam"),
    ("transformer_block", True),
    ("transformer_block", "shifted"),
    ("drop_path_rate", 1.0),
    ("drop_path_rate", -0.1),
    ("num_mel_bins", 0),
    ("num_mel_bins", "64"),
    ("spec_size", 0),
    ("spec_size", 10**9),
    ("short_clips", "stretch"),
    ("silence_value", float("nan")),
    ("silence_value", None),
    ("layer_norm_eps", 0.0),
    ("initializer_range", -0.02),
    ("problem_type", "ranking"),
]


@pytest.mark.parametrize(("field", "value"), BAD_VALUES)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises((StrictDataclassError, TypeError), match=field):
        AudioMambaConfig(**{field: value})


def test_every_field_of_its_own_is_covered_above() -> None:
    own = {f.name for f in fields(AudioMambaConfig)} - {f.name for f in fields(PreTrainedConfig)}
    assert own <= {field for field, _ in BAD_VALUES}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"spec_size": 250}, "spec_size must be a multiple of num_mel_bins"),
        ({"num_mel_bins": 48, "spec_size": 240}, "num_mel_bins must be a multiple of 32"),
        ({"num_mel_bins": 8, "spec_size": 32}, "would mix windows of time"),
    ],
)
def test_spectrograms_that_do_not_fold_evenly_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        AudioMambaConfig(**sizes)


def test_the_geometry_of_the_paper() -> None:
    config = AudioMambaConfig()
    assert (config.num_folds, config.window_frames, config.frames_per_step) == (4, 1024, 32)
    assert config.stage_widths == [96, 192, 384, 768]
    assert (config.hidden_size, config.num_hidden_layers) == (768, 15)


def test_the_geometry_of_a_small_model() -> None:
    config = AudioMambaConfig(embed_dim=8, depths=(1, 2), num_mel_bins=8, spec_size=32)
    assert (config.num_folds, config.window_frames, config.frames_per_step) == (4, 128, 8)
    assert (config.hidden_size, config.num_hidden_layers, config.depths) == (16, 3, [1, 2])


def test_a_hidden_size_sets_the_first_width() -> None:
    config = AudioMambaConfig()
    config.hidden_size = 320
    assert (config.embed_dim, config.hidden_size) == (40, 320)
    with pytest.raises(ValueError, match="hidden_size must be a multiple of 8"):
        config.hidden_size = 321
    assert AudioMambaConfig(hidden_size=512).embed_dim == 64
