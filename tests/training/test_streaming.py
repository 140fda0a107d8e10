"""Whole runs on streams of shards: the same models and reports, exact resuming, what does not go with a stream."""

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForAudioClassification

from hf_audio_mamba.data import load_audio_folder, write_shards
from hf_audio_mamba.errors import CheckpointError, DataError, UsageError
from hf_audio_mamba.training import AudioTrainingArguments, DataArguments, ModelArguments, run
from tests.training.tone_folder import FEATURES, MODEL, write_tones


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def shards(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "tones"
    write_shards(load_audio_folder(tones), folder, num_shards=2)
    return folder


def arguments(
    folder: Path, output: Path, **changes: Any
) -> tuple[ModelArguments, DataArguments, AudioTrainingArguments]:
    data_names = set(DataArguments.__dataclass_fields__)
    data = {"data_dir": str(folder), "streaming": True, "shuffle_buffer": 6, "augmentation": "none"}
    training: dict[str, Any] = {
        "output_dir": str(output),
        "use_cpu": True,
        "disable_tqdm": True,
        "max_steps": 12,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": 4,
        "save_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "bootstrap_resamples": 20,
    }
    for name, value in changes.items():
        (data if name in data_names else training)[name] = value
    model = ModelArguments(config_overrides=MODEL, feature_overrides=FEATURES)
    return model, DataArguments(**data), AudioTrainingArguments(**training)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_stream_teaches_what_a_folder_does(shards: Path, tones: Path, tmp_path: Path) -> None:
    results = run(*arguments(shards, tmp_path / "run", max_steps=60, eval_steps=20, save_steps=20))
    assert results["metrics"]["test"]["accuracy"] > 0.8
    assert results["clips"] == {"train": 21, "validation": 3, "test": 6}
    assert results["epochs"] == pytest.approx(60 * 4 / 21, abs=1e-3)
    assert results["unreadable"] == {"train": 0, "validation": 0, "test": 0}
    assert results["floor"] == {}
    assert json.loads((tmp_path / "run" / "all_results.json").read_text())["metrics"] == results["metrics"]
    rows = read_csv(tmp_path / "run" / "test_predictions.csv")
    expected = {f"{clip.name}": clip.label for clip in load_audio_folder(tones).splits["test"]}
    assert {row["file_name"].split("/", 1)[1]: row["label"] for row in rows} == expected
    share = np.mean([row["label"] == row["prediction"] for row in rows])
    assert share == pytest.approx(results["metrics"]["test"]["accuracy"])
    trained = AutoModelForAudioClassification.from_pretrained(tmp_path / "run")
    assert trained.config.id2label == {0: "high", 1: "low", 2: "middle"}
    assert "shards in tones" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_run_ends_in_the_same_weights(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    changes = {
        "dataloader_num_workers": workers,
        "gradient_accumulation_steps": 2,
        "augmentation": "mixup_alpha=0.3",
        "load_best_model_at_end": False,
    }
    run(*arguments(shards, tmp_path / "whole", **changes))
    run(*arguments(shards, tmp_path / "parts", **changes))
    # As if it had been interrupted after the second checkpoint of three.
    for path in (tmp_path / "parts").iterdir():
        if path.is_file():
            path.unlink()
    final = tmp_path / "parts" / "checkpoint-12"
    for path in final.iterdir():
        path.unlink()
    final.rmdir()
    with caplog.at_level(logging.WARNING):
        resumed = run(*arguments(shards, tmp_path / "parts", **changes, resume=True))
    assert "Resuming from" in caplog.text
    assert "checkpoint-8" in caplog.text
    assert resumed["steps"] == 12
    assert resumed["epochs"] == json.loads((tmp_path / "whole" / "all_results.json").read_text())["epochs"]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())


def test_test_clips_are_scored_in_several_shifts(shards: Path, tmp_path: Path) -> None:
    changes = {"max_steps": 4, "average_checkpoints": 2, "save_steps": 2, "eval_steps": 2}
    once = run(*arguments(shards, tmp_path / "once", **changes))
    shifted = run(*arguments(shards, tmp_path / "shifted", **changes, test_time_shifts=3))
    assert once["metrics"]["validation"] == shifted["metrics"]["validation"]
    scores = [read_csv(tmp_path / name / "test_predictions.csv") for name in ("once", "shifted")]
    assert [row["file_name"] for row in scores[0]] == [row["file_name"] for row in scores[1]]
    assert [row["score"] for row in scores[0]] != [row["score"] for row in scores[1]]


def test_a_checkpoint_of_another_stream_is_refused(shards: Path, tmp_path: Path) -> None:
    run(*arguments(shards, tmp_path / "run", max_steps=4))
    (tmp_path / "run" / "all_results.json").unlink()
    for change, message in (
        ({"dataloader_num_workers": 2}, "dataloader_num_workers 0, now it is 2"),
        ({"shuffle_buffer": 7}, "shuffle_buffer 6, now it is 7"),
        ({"per_device_train_batch_size": 2}, "per_device_train_batch_size 4, now it is 2"),
    ):
        with pytest.raises(CheckpointError, match=message):
            run(*arguments(shards, tmp_path / "run", **change, resume=True))
    (tmp_path / "run" / "checkpoint-4" / "stream.json").unlink()
    with pytest.raises(CheckpointError, match="tells no place in a stream"):
        run(*arguments(shards, tmp_path / "run", resume=True))


def test_multi_label_stream_with_names_and_mids(tones: Path, tmp_path: Path) -> None:
    dataset = load_audio_folder(tones, label_column="tags", problem_type="multi_label_classification")
    write_shards(dataset, tmp_path / "shards", file_format="tar", num_shards=2)
    rows = "".join(f"{index},/m/{index},{name}\n" for index, name in enumerate(dataset.label_names))
    # A class that no clip has, and the others in another order than they were packed in.
    lines = ["4,/m/4,silence\n", *reversed(rows.splitlines(keepends=True))]
    (tmp_path / "classes.csv").write_text("number,mid,display_name\n" + "".join(lines))
    changes = {
        "problem_type": "multi_label_classification",
        "label_file": str(tmp_path / "classes.csv"),
        "max_steps": 2,
        "eval_steps": 2,
        "save_steps": 2,
    }
    results = run(*arguments(tmp_path / "shards", tmp_path / "run", **changes))
    assert results["label_names"] == ["silence", *reversed(dataset.label_names)]
    assert results["undefined_labels"]["test"] == {"without_positives": 1, "without_negatives": 0}
    assert {"mean_average_precision", "mean_roc_auc", "d_prime"} <= results["metrics"]["test"].keys()
    expected = {clip.name: set(clip.label) for clip in dataset.splits["test"]}
    for row in read_csv(tmp_path / "run" / "test_predictions.csv"):
        assert set(row["label"].split(";")) == expected[row["file_name"].split("/", 1)[1]]
    assert "1 occur in no test clip" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def damaged(tones: Path, tmp_path: Path) -> Path:
    """Shards in which one training clip and one test clip cannot be read."""
    folder = tmp_path / "damaged"
    dataset = load_audio_folder(tones)
    for split in ("train", "test"):
        first = dataset.splits[split][0]
        dataset.splits[split][0] = type(first)(first.name, first.label, audio=b"not audio")
    write_shards(dataset, folder, num_shards=1)
    return folder


def test_unreadable_clips_are_told(damaged: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    changes = {"max_steps": 6, "eval_steps": 6, "save_steps": 6}
    with caplog.at_level(logging.WARNING):
        results = run(*arguments(damaged, tmp_path / "run", max_corrupt_fraction=0.2, **changes))
    # 24 clips of a stream of 21: the damaged one comes by once, or twice.
    assert results["unreadable"]["train"] in (1, 2)
    assert (results["unreadable"]["test"], results["clips"]["test"]) == (1, 5)
    assert "cannot be read and is skipped" in caplog.text
    assert "could not be read were skipped (train" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    with pytest.raises(DataError, match=r"1 of the 6 clips of .* more than --max_corrupt_fraction 0\.01"):
        run(*arguments(damaged, tmp_path / "strict", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": -1}, "--streaming needs --max_steps"),
        ({"train_sampling_strategy": "class_balanced"}, "class_balanced cannot pick clips from a stream"),
        ({"fold": "1"}, "--fold does not go with --streaming"),
        ({"metadata": "metadata.csv"}, "--metadata does not go with --streaming"),
        ({"transpose_copies": [1]}, "--transpose_copies does not go with --streaming"),
        ({"train_on_validation": True}, "--train_on_validation does not go with --streaming"),
        ({"problem_type": "regression"}, "--streaming is for classes"),
        ({"data_dir": None, "dataset_name": "owner/name"}, "--streaming needs --data_dir"),
        ({"shuffle_buffer": -1}, "--shuffle_buffer is -1"),
        ({"streaming": False, "label_file": "labels.csv"}, "--label_file belongs to --streaming"),
        ({"label_column": "pitch"}, "no column 'pitch'"),
        ({"label_file": "nowhere.csv"}, "the class names are missing"),
    ],
)
def test_what_does_not_go_with_a_stream_is_refused(
    shards: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((UsageError, DataError), match=message):
        run(*arguments(shards, tmp_path / "run", **changes))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes:UserWarning")
def test_readers_that_do_not_divide_the_shards_are_told(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run(*arguments(shards, tmp_path / "run", max_steps=1, dataloader_num_workers=3, eval_steps=1, save_steps=1))
    assert "3 readers (processes times loading workers) share 2 training shards" in caplog.text
