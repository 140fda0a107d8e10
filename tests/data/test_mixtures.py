"""Mixtures of clips: labels that are true, splits that never meet."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_audio_mamba.commands import mix
from hf_audio_mamba.data import load_audio_folder
from hf_audio_mamba.data.mixtures import MixtureSettings, write_mixtures
from hf_audio_mamba.errors import OutputError, UsageError

RATE = 8000
# A tone of its own for every class and fold: what is in a mixture can be read off its spectrum.
FREQUENCIES = {(name, fold): 300 + 250 * k + 40 * fold for k, name in enumerate("abcd") for fold in (1, 2, 3)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tones")
    rows = ["file_name,label,fold"]
    for (name, fold), frequency in FREQUENCIES.items():
        tone = 0.3 * np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE)
        soundfile.write(path / f"{name}{fold}.wav", tone, RATE)
        rows.append(f"{name}{fold}.wav,{name},{fold}")
    (path / "metadata.csv").write_text("\n".join(rows))
    return path


def tones_in(path: Path) -> set[tuple[str, int]]:
    samples, rate = soundfile.read(path)
    assert (rate, len(samples)) == (RATE, 2 * RATE)
    assert np.abs(samples).max() <= 0.9001
    spectrum = np.abs(np.fft.rfft(samples))
    bins = {key: round(frequency * len(samples) / rate) for key, frequency in FREQUENCIES.items()}
    return {key for key, at in bins.items() if spectrum[at - 2 : at + 3].max() > 40}


def test_labels_are_what_sounds_and_splits_never_meet(folder: Path, tmp_path: Path) -> None:
    arguments = ["--data_dir", str(folder), "--fold", "3", "--output_dir", str(tmp_path), "--seconds", "2"]
    counts = ["--num_train", "20", "--num_validation", "5", "--num_test", "8", "--sampling_rate", str(RATE)]
    assert mix.run([*arguments, *counts, "--level_db", "6"]) == 0
    folds = {"train": {2}, "validation": {1}, "test": {3}}
    for split, expected in folds.items():
        for row in csv.DictReader((tmp_path / split / "metadata.csv").open(encoding="utf-8")):
            heard = tones_in(tmp_path / split / row["file_name"])
            assert {name for name, _ in heard} == set(row["label"].split(";"))
            assert {fold for _, fold in heard} == expected
            assert 2 <= len(heard) <= 3
    dataset = load_audio_folder(tmp_path, problem_type="multi_label_classification")
    assert {split: len(clips) for split, clips in dataset.splits.items()} == {"train": 20, "validation": 5, "test": 8}
    assert dataset.label_names == ["a", "b", "c", "d"]


def test_a_seed_gives_the_same_mixtures(folder: Path, tmp_path: Path) -> None:
    dataset = load_audio_folder(folder, fold=3)
    contents = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        settings = MixtureSettings(seconds=0.5, sampling_rate=RATE, seed=seed)
        write_mixtures(dataset, tmp_path / name, {"test": 3}, settings)
        contents.append([path.read_bytes() for path in sorted((tmp_path / name / "test").iterdir())])
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


@pytest.mark.parametrize(
    ("counts", "settings", "named"),
    [
        ({"dev": 1}, {}, "dev"),
        ({"test": 1}, {"sounds": (2, 5)}, "4 classes"),
        ({"test": 1}, {"sounds": (3, 2)}, "sounds"),
        ({"test": 1}, {"seconds": 0.0}, "seconds"),
        ({"test": 1}, {"level_db": -1.0}, "level_db"),
    ],
    ids=["no such split", "too few classes", "order", "length", "level"],
)
def test_what_cannot_be_mixed_is_named(folder: Path, tmp_path: Path, counts: dict, settings: dict, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        write_mixtures(load_audio_folder(folder, fold=3), tmp_path / "new", counts, MixtureSettings(**settings))


def test_an_occupied_folder_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(OutputError, match="not empty"):
        write_mixtures(load_audio_folder(folder, fold=3), tmp_path, {"test": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
