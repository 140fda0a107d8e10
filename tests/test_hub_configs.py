"""Presets load by the Auto classes, recipes are valid settings of the train command."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification

import hf_audio_mamba  # noqa: F401  # makes the models known to the Auto classes
from hf_audio_mamba.data import AudioDataset, AugmentationConfig
from hf_audio_mamba.training import parse_arguments
from hf_audio_mamba.training.preparation import augmentation_config, build_model
from hf_audio_mamba.training.schedules import epoch_schedule

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
    "htsat/base": (527, 29_963_431),
    "htsat/nano": (527, 5_200_195),
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
    if config.model_type in ("audio_mamba", "htsat"):
        assert (extractor.num_frames, extractor.floor) == (config.window_frames, config.silence_value)
    with torch.device("meta"):
        model = AutoModelForAudioClassification.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_every_size_has_its_preset() -> None:
    assert {name_of(preset) for preset in PRESETS} == set(SIZES)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recipes_are_valid(recipe: Path, tmp_path: Path) -> None:
    arguments = [str(recipe), "--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "run")]
    model_args, data_args, training_args = parse_arguments(arguments)
    assert f"hf-audio-mamba train hub_configs/{recipe.parent.name}/{recipe.name} " in recipe.read_text(encoding="utf-8")
    peers = {"ast": "audio-spectrogram-transformer"}
    assert model_args.model_type == peers.get(recipe.parent.name, recipe.parent.name)
    assert data_args.data_license != "not stated"
    assert training_args.num_train_epochs > 1
    augmentation_config(data_args)
    dataset = AudioDataset(
        name="recipe",
        splits={},
        label_names=[f"label {index}" for index in range(80)],
        problem_type=data_args.problem_type,
        info={},
    )
    with torch.device("meta"):
        model, extractor = build_model(model_args, dataset)
    if recipe.parent.name not in peers:  # the feature extractor of transformers calls a spectrogram one channel
        assert extractor.feature_size == model.config.num_mel_bins
    if model_args.model_type == "aum":
        assert model.config.padding_value == pytest.approx(extractor.padding_value, abs=1e-6)
    # Recipes that the README has figures of train on one core.
    if model_args.model_type == "momamba" or recipe.stem.endswith("_cpu"):
        assert sum(p.numel() for p in model.parameters()) < 7_000_000


def published(recipe: str) -> tuple[AugmentationConfig, Any]:
    _, data_args, training_args = parse_arguments(
        [str(ROOT / recipe), "--data_dir", "clips", "--output_dir", "run", "--use_cpu"]
    )
    return augmentation_config(data_args), training_args


def learning_rates(training_args: Any, epochs: int) -> list[float]:
    schedule = epoch_schedule(training_args.lr_scheduler_type, training_args.lr_scheduler_kwargs)
    return [training_args.learning_rate * schedule.factor(epoch) for epoch in range(epochs)]


def test_htsat_recipe_is_the_published_one() -> None:
    changes, training_args = published("audio_mamba/audioset.yaml")
    assert (changes.spec_augment_time_frames, changes.spec_augment_frequency_bands) == (64, 8)
    assert (changes.mixup_alpha, changes.mixup_labels, changes.gain_db, changes.time_shift) == (0.5, False, 0, 0)
    assert (training_args.weight_decay, training_args.weight_decay_all, training_args.max_grad_norm) == (0.05, True, 1)
    assert training_args.per_device_train_batch_size == 128
    rates = learning_rates(training_args, 100)
    assert rates == pytest.approx([5e-5, 1e-4, *[2e-4] * 9, *[1e-4] * 10, *[5e-5] * 10, *[3e-5] * 69])
    # As parts of all steps: a tenth of an epoch.
    assert (training_args.eval_steps, training_args.save_steps) == (0.001, 0.001)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("audioset", [1e-5, 1e-5, 5e-6, 2.5e-6, 1.25e-6]),
        ("audioset_balanced", [*[5e-5] * 10, *[2.5e-5] * 5, *[1.25e-5] * 5, *[6.25e-6] * 5]),
        ("vggsound", [1e-5 * 0.75 ** max(0, (epoch - 3) // 2) for epoch in range(20)]),
        ("speechcommands", [2.5e-4 * 0.85 ** max(0, epoch - 4) for epoch in range(30)]),
        ("epic", [*[1e-5] * 10, *[5e-7] * 10, *[1e-7] * 10]),
    ],
)
def test_aum_recipes_are_the_published_ones(name: str, expected: list[float]) -> None:
    changes, training_args = published(f"aum/{name}.yaml")
    assert learning_rates(training_args, len(expected)) == pytest.approx(expected)
    assert training_args.num_train_epochs == len(expected)
    assert (training_args.adam_beta1, training_args.adam_beta2, training_args.weight_decay) == (0.95, 0.999, 5e-7)
    rates = {"audioset": 0.5, "audioset_balanced": 0.5, "speechcommands": 0.6}
    assert changes.mixup_rate == rates.get(name, 0)
    assert changes.spec_augment_frequency_bands == 48
    assert changes.spec_augment_time_frames == (48 if name == "speechcommands" else 192)
