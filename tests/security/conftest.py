"""A small saved classifier to damage."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_audio_mamba import MoMambaConfig, MoMambaFeatureExtractor, MoMambaForAudioClassification

EditConfig = Callable[..., None]


@pytest.fixture(scope="session")
def intact_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved classifier; not to be changed."""
    folder = tmp_path_factory.mktemp("intact")
    torch.manual_seed(0)
    config = MoMambaConfig(
        hidden_size=16, num_hidden_layers=2, state_size=4, num_mel_bins=6, id2label={0: "cat", 1: "dog", 2: "owl"}
    )
    MoMambaForAudioClassification(config).save_pretrained(folder)
    MoMambaFeatureExtractor(
        num_mel_bins=6, sampling_rate=8000, n_fft=512, win_length=512, hop_length=80
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def model_folder(intact_folder: Path, tmp_path: Path) -> Path:
    """A copy of the saved classifier, to be damaged."""
    folder = tmp_path / "model"
    shutil.copytree(intact_folder, folder)
    return folder


@pytest.fixture
def edit_config(model_folder: Path) -> EditConfig:
    """Change fields of a JSON file of the model folder; None removes a field."""

    def edit(file_name: str = "config.json", **fields: Any) -> None:
        path = model_folder / file_name
        content = {**json.loads(path.read_text()), **fields}
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return edit
