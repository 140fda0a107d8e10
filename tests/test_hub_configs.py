"""Presets load by the Auto classes, recipes are valid settings of the train command."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification

import hf_audio_mamba  # noqa: F401  # makes the models known to the Auto classes
from hf_audio_mamba.training import parse_arguments
from hf_audio_mamba.training.assignments import parse_assignments

ROOT = Path(__file__).resolve().parents[1] / "hub_configs"
PRESETS = sorted(path.parent for path in ROOT.rglob("config.json"))
RECIPES = sorted(ROOT.rglob("*.yaml"))
# Labels that the paper's data has, and parameters with that many.
SIZES = {
    "momamba/paper": (10, 46_441_482),
    "momamba/base": (10, 46_441_482),
    "momamba/small": (10, 15_732_746),
    "momamba/tiny": (10, 3_057_930),
    "audio_mamba/tiny": (527, 40_141_807),
    "audio_mamba/micro": (527, 12_379_087),
    "audio_mamba/nano": (527, 5_249_015),
    "audio_mamba/tiny-s2l5": (527, 32_365_039),
    "audio_mamba/micro-deep": (527, 12_344_007),
    "audio_mamba/nano-deep": (527, 5_191_675),
    "audio_mamba/tiny-gated": (527, 38_622_319),
    "audio_mamba/micro-gated": (527, 12_017_595),
    "audio_mamba/nano-gated": (527, 4_902_703),
    "audio_mamba/tiny-gated-state16": (527, 40_220_911),
    "audio_mamba/tiny-merging-state16": (527, 40_182_895),
    "aum/base": (527, 92_107_535),
    "aum/small": (527, 25_539_215),
    "aum/tiny": (527, 6_438_479),
}


def name_of(preset: Path) -> str:
    return f"{preset.parent.name}/{preset.name}"


@pytest.mark.parametrize("preset", PRESETS, ids=name_of)
def test_presets_load_and_fit_each_other(preset: Path) -> None:
    num_labels, parameters = SIZES[name_of(preset)]
    config = AutoConfig.from_pretrained(preset, num_labels=num_labels)
    extractor = AutoFeatureExtractor.from_pretrained(preset)
    assert extractor.feature_size == config.num_mel_bins
    if config.model_type == "momamba":
        assert config.residual is (preset.name != "paper")
    if config.model_type == "audio_mamba":
        assert (extractor.num_frames, extractor.floor) == (config.window_frames, config.silence_value)
    with torch.device("meta"):
        model = AutoModelForAudioClassification.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_every_size_has_its_preset() -> None:
    assert {name_of(preset) for preset in PRESETS} == set(SIZES)


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
