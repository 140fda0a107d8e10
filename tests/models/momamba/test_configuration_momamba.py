"""Every field of MoMambaConfig is checked."""

from dataclasses import fields
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from hf_audio_mamba import MoMambaConfig

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
    ("use_cls_token", "yes"),
    ("cls_position", "start"),
    ("pooling", "max"),
    ("position_encoding", "rotary"),
    ("max_position_embeddings", 1),
    ("bidirectional", 1),
    ("residual", None),
    ("hidden_dropout", 1.0),
    ("hidden_dropout", -0.1),
    ("regression_hidden_size", 0),
    ("layer_norm_eps", 0.0),
    ("initializer_range", "small"),
    ("problem_type", "ranking"),
]


@pytest.mark.parametrize(("field", "value"), BAD_VALUES)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(StrictDataclassError, match=field):
        MoMambaConfig(**{field: value})


def test_every_field_of_its_own_is_covered_above() -> None:
    own = {f.name for f in fields(MoMambaConfig)} - {f.name for f in fields(PreTrainedConfig)}
    assert own <= {field for field, _ in BAD_VALUES}


def test_other_libraries_names_for_sizes_work() -> None:
    config = MoMambaConfig(d_model=64, num_layers=3)
    assert (config.hidden_size, config.num_hidden_layers, config.d_model) == (64, 3, 64)
    assert config.intermediate_size == 128
