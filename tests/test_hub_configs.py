"""Presets load by the Auto classes, recipes are valid settings of the train command."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification

import hf_audio_mamba  # noqa: F401  # makes the models known to the Auto classes
from hf_audio_mamba.training import parse_arguments
from hf_audio_mamba.training.arguments import parse_assignments

ROOT = Path(__file__).resolve().parents[1] / "hub_configs"
PRESETS = sorted(path.parent for path in ROOT.rglob("config.json"))
RECIPES = sorted(ROOT.rglob("*.yaml"))
PARAMETERS = {
    "aum/base": 91_709_962,
    "aum/small": 25_340_170,
    "aum/tiny": 6_338_698,
    "momamba/paper": 46_441_482,
    "momamba/base": 46_441_482,
    "momamba/small": 15_732_746,
    "momamba/tiny": 3_057_930,
}


def name_of(preset: Path) -> str:
    return f"{preset.parent.name}/{preset.name}"


@pytest.mark.parametrize("preset", PRESETS, ids=name_of)
def test_presets_load_and_fit_each_other(preset: Path) -> None:
    config = AutoConfig.from_pretrained(preset, num_labels=10)
    extractor = AutoFeatureExtractor.from_pretrained(preset)
    assert extractor.feature_size == config.num_mel_bins
    assert getattr(config, "residual", True) is (name_of(preset) != "momamba/paper")
    with torch.device("meta"):
        model = AutoModelForAudioClassification.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name_of(preset)]


def test_every_size_has_its_preset() -> None:
    assert {name_of(path) for path in PRESETS} == set(PARAMETERS)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid_and_small(recipe: Path, tmp_path: Path) -> None:
    arguments = [str(recipe), "--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "run")]
    model_args, data_args, training_args = parse_arguments(arguments)
    assert data_args.data_license != "not stated"
    assert training_args.num_train_epochs > 1
    overrides = parse_assignments(model_args.config_overrides, option="--config_overrides")
    config = AutoConfig.for_model(model_args.model_type, num_labels=80, **overrides)
    with torch.device("meta"):
        model = AutoModelForAudioClassification.from_config(config)
    assert sum(p.numel() for p in model.parameters()) < 4_000_000
