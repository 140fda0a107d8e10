"""Whole runs with the options of the published recipes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.training import run
from tests.training.test_workflow import arguments, read_csv
from tests.training.tone_folder import write_tones


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


def shifted_logits(output: Path, clip: Path, shifts: list[int]) -> torch.Tensor:
    """Logits `(shifts, labels)` of the saved model for circular shifts of a clip's features."""
    extractor = AutoFeatureExtractor.from_pretrained(output)
    model = AutoModelForAudioClassification.from_pretrained(output).eval()
    samples, rate = sf.read(clip, dtype="float32")
    features = extractor(samples, sampling_rate=rate)["input_values"][0]
    rolled = np.stack(
        [np.concatenate([features[-shift:], features[:-shift]]) if shift else features for shift in shifts]
    )
    with torch.no_grad():
        return model(torch.from_numpy(rolled)).logits.double()


RECIPE: dict[str, Any] = {
    "num_train_epochs": 3,
    "augmentation": "mixup_alpha=0.5,mixup_probability=0.5,mixup_labels=false,cutmix_alpha=1,cutmix_probability=0.5,"
    "spec_augment_time_frames=6,spec_augment_mean=true",
    "train_sampling_strategy": "class_queue",
    "lr_scheduler_type": "htsat",
    "lr_scheduler_kwargs": {"rates": [0.5, 1.0], "epochs": [1, 2]},
    "warmup_steps": 0,
    "weight_decay_all": True,
    "average_checkpoints": 2,
    "save_total_limit": 3,
    "floor": False,
}


def test_single_label_recipe(tones: Path, cache: str, tmp_path: Path) -> None:
    output = tmp_path / "run"
    recipe = {**RECIPE, "single_label_loss": "binary_cross_entropy", "test_time_shifts": 3}
    results = run(*arguments(tones, output, cache, **recipe))
    assert len(results["averaged_steps"]) == 2
    stored = results["arguments"]
    assert (stored["lr_scheduler_type"], stored["test_time_shifts"]) == ("htsat", 3)
    assert (stored["average_checkpoints"], stored["single_label_loss"]) == (2, "binary_cross_entropy")
    names = list(AutoModelForAudioClassification.from_pretrained(output).config.id2label.values())
    for row in read_csv(output / "test_predictions.csv"):
        # 50 frames a second: shifts by 100 and 300 samples of 1/32000 s are less than a frame.
        mean = shifted_logits(output, tones / row["file_name"], [0, 1, 2]).softmax(dim=-1).mean(dim=0)
        assert row["prediction"] == names[int(mean.argmax())]
        assert float(row["score"]) == pytest.approx(float(mean.max()), abs=1e-5)


def test_multi_label_recipe(tones: Path, cache: str, tmp_path: Path) -> None:
    output = tmp_path / "run"
    problem = {"label_column": "tags", "problem_type": "multi_label_classification", "test_time_shifts": 2}
    run(*arguments(tones, output, cache, **RECIPE, **problem))
    names = list(AutoModelForAudioClassification.from_pretrained(output).config.id2label.values())
    for row in read_csv(output / "test_predictions.csv"):
        mean = shifted_logits(output, tones / row["file_name"], [0, 1]).sigmoid().mean(dim=0)
        assert [float(row[f"score_{name}"]) for name in names] == pytest.approx(mean.tolist(), abs=1e-5)


def test_averaged_run_resumes_to_the_same_result(tones: Path, cache: str, tmp_path: Path) -> None:
    output = tmp_path / "run"
    first = run(*arguments(tones, output, cache, **RECIPE))
    # As if the process had ended after training and before the results were written.
    (output / "all_results.json").unlink()
    (output / "model.safetensors").unlink()
    second = run(*arguments(tones, output, cache, **RECIPE, resume=True))
    assert second["averaged_steps"] == first["averaged_steps"]
    assert second["metrics"] == first["metrics"]


def test_shifts_need_a_test_split(cache: str, tmp_path: Path) -> None:
    tones = write_tones(tmp_path / "tones", clips_per_class=4)
    metadata = (tones / "metadata.csv").read_text(encoding="utf-8").replace(",test,", ",train,")
    (tones / "metadata.csv").write_text(metadata, encoding="utf-8")
    with pytest.raises(UsageError, match=r"--test_time_shifts: .* has no test split"):
        run(*arguments(tones, tmp_path / "run", cache, test_time_shifts=2))
