"""Whole runs on a folder of tones: what goes in, what is left on the disk, what is refused."""

import csv
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import soundfile as sf
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

from hf_audio_mamba.errors import CheckpointError, DataError, HubError, OutputError, UsageError
from hf_audio_mamba.training import AudioTrainingArguments, DataArguments, ModelArguments, results_table, run, workflow
from hf_audio_mamba.training.output_dir import claimed
from tests.hub.fake_hub import TOKEN, FakeHub
from tests.training.tone_folder import FEATURES, MODEL, write_tone, write_tones


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


def arguments(
    folder: Path, output: Path, cache: str, *, model: dict[str, Any] | None = None, **changes: Any
) -> tuple[ModelArguments, DataArguments, AudioTrainingArguments]:
    data_names = set(DataArguments.__dataclass_fields__)
    data = {"data_dir": str(folder), "cache_dir": cache, "num_feature_workers": 1, "augmentation": "none"}
    training: dict[str, Any] = {
        "output_dir": str(output),
        "use_cpu": True,
        "disable_tqdm": True,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "bootstrap_resamples": 50,
    }
    for name, value in changes.items():
        (data if name in data_names else training)[name] = value
    model = {"config_overrides": MODEL, "feature_overrides": FEATURES} if model is None else model
    return ModelArguments(**model), DataArguments(**data), AudioTrainingArguments(**training)


@pytest.fixture(scope="module")
def finished(tones: Path, cache: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished classification run: its folder and its results."""
    output = tmp_path_factory.mktemp("runs") / "tones"
    return output, run(*arguments(tones, output, cache, num_train_epochs=12), command="train it")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_run_leaves_everything_on_the_disk(finished: tuple[Path, dict[str, Any]]) -> None:
    output, results = finished
    names = {path.name for path in output.iterdir() if not path.name.startswith("checkpoint-")}
    assert names == {
        ".lock",
        "README.md",
        "all_results.json",
        "config.json",
        "confusion_matrix.png",
        "learning_curves.png",
        "model.safetensors",
        "preprocessor_config.json",
        "test_predictions.csv",
        "training_args.bin",
    }
    stored = json.loads((output / "all_results.json").read_text(encoding="utf-8"))
    assert stored["metrics"] == results["metrics"]
    assert stored["clips"] == {"train": 21, "validation": 3, "test": 6}
    assert stored["command"] == "train it"
    model = AutoModelForAudioClassification.from_pretrained(output)
    assert stored["num_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert stored["arguments"]["learning_rate"] == 1e-2
    assert "output_dir" not in stored["arguments"]


def test_model_learns_the_tones_and_the_floor_is_beside_it(finished: tuple[Path, dict[str, Any]]) -> None:
    _, results = finished
    assert results["metrics"]["test"]["accuracy"] > 0.8
    low, high = results["intervals"]["accuracy"]
    assert low <= results["metrics"]["test"]["accuracy"] <= high
    assert results["floor"]["majority class"]["test"]["accuracy"] == pytest.approx(1 / 3)
    assert set(results["floor"]["logistic regression"]) == {"validation", "test"}
    table = results_table(results)
    assert [line.split("  ")[0] for line in table.splitlines()[1:]] == [
        "majority class",
        "logistic regression",
        "momamba",
    ]


def test_predictions_are_those_of_the_saved_model(finished: tuple[Path, dict[str, Any]], tones: Path) -> None:
    output, results = finished
    rows = read_csv(output / "test_predictions.csv")
    assert len(rows) == 6
    right = np.mean([row["label"] == row["prediction"] for row in rows])
    assert right == pytest.approx(results["metrics"]["test"]["accuracy"])
    classify = pipeline("audio-classification", model=str(output), device="cpu")
    for row in rows:
        best = classify(str(tones / row["file_name"]))[0]
        assert best["label"] == row["prediction"]
        assert best["score"] == pytest.approx(float(row["score"]), abs=1e-4)


def test_labels_go_both_ways(finished: tuple[Path, dict[str, Any]]) -> None:
    config = AutoModelForAudioClassification.from_pretrained(finished[0]).config
    assert config.id2label == {0: "high", 1: "low", 2: "middle"}
    assert config.label2id == {"high": 0, "low": 1, "middle": 2}
    assert config.problem_type == "single_label_classification"


def test_card_tells_what_the_results_tell(finished: tuple[Path, dict[str, Any]]) -> None:
    output, results = finished
    card = (output / "README.md").read_text(encoding="utf-8")
    assert f"{results['num_parameters']:,}" in card
    assert f"{results['metrics']['test']['accuracy']:.3f}" in card
    assert "train it" in card
    assert "confusion_matrix.png" in card


def test_training_is_reproducible_and_does_not_look_at_the_floor(
    tones: Path, cache: str, tmp_path: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    again = run(*arguments(tones, tmp_path / "again", cache, num_train_epochs=12, floor=False))
    assert again["metrics"] == finished[1]["metrics"]
    assert again["floor"] == {}


def test_finished_run_is_not_repeated_and_not_overwritten(
    tones: Path, cache: str, finished: tuple[Path, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    output, results = finished
    with pytest.raises(UsageError, match=r"is not empty \(README\.md, .*--resume"):
        run(*arguments(tones, output, cache))
    with caplog.at_level(logging.WARNING):
        assert run(*arguments(tones, output, cache, resume=True))["metrics"] == results["metrics"]
    assert "holds a finished run" in caplog.text


def test_overwriting_deletes_the_run_and_nothing_else(
    tones: Path, cache: str, tmp_path: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    output = tmp_path / "copy"
    shutil.copytree(finished[0], output)
    (output / "notes.txt").write_text("mine")
    results = run(*arguments(tones, output, cache, overwrite_output_dir=True))
    assert results["epochs"] == 1
    assert (output / "notes.txt").read_text() == "mine"
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-6"]


def test_folder_in_use_is_refused(tones: Path, cache: str, tmp_path: Path) -> None:
    with claimed(str(tmp_path / "run")), pytest.raises(OutputError, match="is in use by another run"):
        run(*arguments(tones, tmp_path / "run", cache))


def test_output_that_is_a_file_is_refused(tones: Path, cache: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written to"):
        run(*arguments(tones, tmp_path / "file" / "run", cache))


def test_multi_label_run(tones: Path, cache: str, tmp_path: Path) -> None:
    changes = {"label_column": "tags", "problem_type": "multi_label_classification", "num_train_epochs": 2}
    results = run(*arguments(tones, tmp_path / "run", cache, **changes))
    assert results["label_names"] == ["high", "low", "middle", "tonal"]
    names = {"mean_average_precision", "mean_roc_auc", "d_prime", "f1_macro", "f1_micro"}
    assert set(results["metrics"]["test"]) == names
    assert results["undefined_labels"]["test"] == {"without_positives": 0, "without_negatives": 0}
    table = results_table(results)
    assert all(column in table for column in ("test mean_average_precision", "test mean_roc_auc", "test d_prime"))
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "mean ROC-AUC (mAUC)" in card
    rows = read_csv(tmp_path / "run" / "test_predictions.csv")
    assert {row["label"] for row in rows} <= {
        f"{pitch}{tag}" for pitch in ("high", "low", "middle") for tag in ("", ";tonal")
    }
    assert all(0 <= float(row["score_tonal"]) <= 1 for row in rows)
    assert not (tmp_path / "run" / "confusion_matrix.png").exists()


def test_regression_run_is_in_the_unit_of_the_labels(tones: Path, cache: str, tmp_path: Path) -> None:
    changes = {
        "label_column": "valence,arousal",
        "problem_type": "regression",
        "label_range": [-1.0, 3.0],
        "num_train_epochs": 25,
    }
    results = run(*arguments(tones, tmp_path / "run", cache, **changes))
    rows = read_csv(tmp_path / "run" / "test_predictions.csv")
    truth = np.array([[float(row["valence"]), float(row["arousal"])] for row in rows])
    guess = np.array([[float(row["prediction_valence"]), float(row["prediction_arousal"])] for row in rows])
    assert truth[0].sum() == pytest.approx(1.0, abs=1e-3)
    expected = 1 - ((truth - guess) ** 2).sum(0) / ((truth - truth.mean(0)) ** 2).sum(0)
    assert results["metrics"]["test"]["r2"] == pytest.approx(expected.mean(), abs=1e-3)
    assert results["metrics"]["test"]["r2"] > 0
    assert set(results["floor"]) == {"mean", "ridge regression"}
    assert (tmp_path / "run" / "regression_scatter.png").is_file()


def test_cross_validation_trains_each_fold_and_averages(tones: Path, cache: str, tmp_path: Path) -> None:
    results = run(*arguments(tones, tmp_path / "run", cache, fold="all"))
    scores = [fold["metrics"]["test"]["accuracy"] for fold in results["folds"].values()]
    assert list(results["folds"]) == ["1", "2", "3"]
    assert results["metrics"]["test"]["accuracy"] == pytest.approx(np.mean(scores))
    assert results["deviations"]["test"]["accuracy"] == pytest.approx(np.std(scores, ddof=1))
    tested = [
        {row["file_name"] for row in read_csv(tmp_path / "run" / f"fold-{n}" / "test_predictions.csv")}
        for n in (1, 2, 3)
    ]
    assert len(set.union(*tested)) == 30 == sum(map(len, tested))
    assert "test deviation" in results_table(json.loads((tmp_path / "run" / "all_results.json").read_text()))


def test_fine_tuning_takes_the_body_and_makes_a_new_head(
    tones: Path, cache: str, tmp_path: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    changes = {"label_column": "fold", "learning_rate": 1e-12}
    results = run(*arguments(tones, tmp_path / "run", cache, model={"model_name_or_path": str(finished[0])}, **changes))
    assert results["label_names"] == ["1", "2", "3"]
    before = AutoModelForAudioClassification.from_pretrained(finished[0]).base_model.state_dict()
    after = AutoModelForAudioClassification.from_pretrained(tmp_path / "run").base_model.state_dict()
    assert all(np.allclose(after[name], tensor, atol=1e-6) for name, tensor in before.items())
    assert "model_name_or_path" in results["arguments"]


def test_fine_tuning_refuses_another_body(
    tones: Path, cache: str, tmp_path: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    model = {"model_name_or_path": str(finished[0]), "config_overrides": "hidden_size=12"}
    with pytest.raises(CheckpointError, match=r"does not hold this model.*--config_overrides"):
        run(*arguments(tones, tmp_path / "run", cache, model=model))


def test_configuration_folder_starts_from_scratch(
    tones: Path, cache: str, tmp_path: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    results = run(*arguments(tones, tmp_path / "run", cache, model={"config_name": str(finished[0])}))
    assert results["num_parameters"] == finished[1]["num_parameters"]
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "run").sampling_rate == 8000


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"config_overrides": "hiden_size=8"}, r"there is no 'hiden_size'; did you mean 'hidden_size'"),
        ({"config_overrides": "hidden_size=wide"}, "hidden_size='wide'"),
        ({"config_overrides": "hidden_size=-8"}, "hidden_size must be from 1"),
        ({"config_overrides": "num_labels=7"}, "num_labels follows from the data"),
        ({"config_overrides": "num_mel_bins=7"}, "the features have 128 bands"),
        ({"feature_overrides": "hop=7"}, "there is no 'hop'"),
        ({"feature_overrides": "hop_length=0"}, "hop_length"),
        ({"model_type": "bert"}, "bert"),
        ({"model_type": "nonsense"}, "nonsense"),
        ({"config_name": "no/such-folder-or-repository"}, "no/such-folder-or-repository"),
        ({"model_name_or_path": "no/such-folder-or-repository"}, "no/such-folder-or-repository"),
    ],
)
def test_unusable_models_are_refused(
    tones: Path, cache: str, tmp_path: Path, model: dict[str, Any], message: str
) -> None:
    with pytest.raises((UsageError, CheckpointError), match=message):
        run(*arguments(tones, tmp_path / "run", cache, model=model))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": "mixup_alfa=1"}, "--augmentation: there is no 'mixup_alfa'; did you mean 'mixup_alpha'"),
        ({"augmentation": "gain_db=loud"}, "--augmentation: gain_db is 'loud', but must be a number"),
        ({"augmentation": "gain_db=-1"}, "gain_db is -1"),
        ({"fold": "9"}, "fold '9' is not in"),
        ({"fold": "all", "push_to_hub": True}, "--fold all makes several models"),
        ({"label_column": "pitch"}, "no column 'pitch'"),
        ({"metric_for_best_model": "acuracy"}, "--metric_for_best_model 'acuracy'.*did you mean 'accuracy'"),
    ],
)
def test_unusable_data_arguments_are_refused(
    tones: Path, cache: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((UsageError, DataError), match=message):
        run(*arguments(tones, tmp_path / "run", cache, **changes))


def test_long_clips_are_cut_in_training_only(tones: Path, cache: str, tmp_path: Path, monkeypatch: Any) -> None:
    seen: dict[str, Any] = {}
    real = workflow.AudioTrainer

    def record(*args: Any, **kwargs: Any) -> Any:
        seen.update(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(workflow, "AudioTrainer", record)
    run(*arguments(tones, tmp_path / "run", cache, max_seconds=0.1, max_steps=1))
    assert {len(seen["train_dataset"][index]["input_values"]) for index in range(21)} == {5}
    assert len(seen["eval_dataset"][0]["input_values"]) > 5


def test_corrupt_clips_are_counted_and_named(cache: str, tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "data")
    (folder / "clips" / "low-0.wav").write_bytes(b"not audio")
    with pytest.raises(DataError, match=r"low-0\.wav"):
        run(*arguments(folder, tmp_path / "run", cache))
    results = run(*arguments(folder, tmp_path / "tolerant", cache, max_corrupt_fraction=0.1))
    assert results["clips"]["train"] == 20
    assert [name for name, _ in results["skipped"]["train"]] == ["clips/low-0.wav"]
    assert "low-0.wav" in (tmp_path / "tolerant" / "README.md").read_text(encoding="utf-8")


def test_without_validation_the_last_step_is_the_result(cache: str, tmp_path: Path) -> None:
    for index in range(9):
        pitch = ("low", "high")[index % 2]
        write_tone(tmp_path / "data" / pitch / f"{index}.wav", 300 + 900 * (index % 2), seed=index)
    changes = {"validation_fraction": 0.0, "num_train_epochs": 2}
    results = run(*arguments(tmp_path / "data", tmp_path / "run", cache, **changes))
    assert results["metrics"] == {}
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert not (tmp_path / "run" / "README.md").exists()
    with pytest.raises(UsageError, match="--early_stopping_patience needs a validation split"):
        run(*arguments(tmp_path / "data", tmp_path / "other", cache, **changes, early_stopping_patience=1))


def test_refused_push_leaves_the_run_and_resuming_pushes_it(
    tones: Path, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = {"push_to_hub": True, "hub_model_id": "owner/tones", "hub_token": TOKEN}
    output = tmp_path / "run"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with FakeHub() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        hub.faults["commit"] = [403]
        with pytest.raises(HubError, match=r"403.*Everything is still in"):
            run(*arguments(tones, output, cache, **push))
        assert AutoModelForAudioClassification.from_pretrained(output) is not None
        before = (output / "all_results.json").read_text(encoding="utf-8")

        run(*arguments(tones, output, cache, **push, resume=True))
        assert (output / "all_results.json").read_text(encoding="utf-8") == before
        uploaded = hub.repos["owner/tones"]
    assert {"model.safetensors", "config.json", "README.md", "test_predictions.csv"} <= uploaded.keys()
    assert not any("checkpoint" in name or name.endswith((".bin", ".lock")) for name in uploaded)
    assert uploaded["README.md"] == (output / "README.md").read_bytes()
    written = [path for path in output.rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


def test_other_audio_classifiers_train_too(tones: Path, cache: str, tmp_path: Path) -> None:
    small = "hidden_size=8,num_hidden_layers=1,num_attention_heads=2,intermediate_size=8,max_length=32,num_mel_bins=16"
    model = {
        "model_type": "audio-spectrogram-transformer",
        "config_overrides": small,
        "feature_overrides": "sampling_rate=8000,num_mel_bins=16,max_length=32",
    }
    results = run(*arguments(tones, tmp_path / "run", cache, model=model))
    assert results["model_type"] == "audio-spectrogram-transformer"
    rows = read_csv(tmp_path / "run" / "test_predictions.csv")
    trained = AutoModelForAudioClassification.from_pretrained(tmp_path / "run").eval()
    extract = AutoFeatureExtractor.from_pretrained(tmp_path / "run")
    audio = sf.read(tones / rows[0]["file_name"], dtype="float32")[0]
    logits = trained(**extract(audio, sampling_rate=8000, return_tensors="pt")).logits
    assert trained.config.id2label[int(logits.argmax())] == rows[0]["prediction"]
