"""Shards: what is written is read again, clip by clip; what is damaged is named."""

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from hf_audio_mamba.data import (
    AudioDataset,
    Clip,
    LabelTable,
    find_shards,
    load_audio_folder,
    read_label_table,
    total_clips,
    write_shards,
)
from hf_audio_mamba.data.shards import count_clips, read_shard
from hf_audio_mamba.errors import DataError, OutputError, UsageError
from tests.training.tone_folder import write_tones

MIDS = LabelTable(["Speech", "Dog, bark", "3"], {"/m/09x0r": "Speech", "/m/0bt9lr": "Dog, bark"})


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"))


@pytest.mark.parametrize("file_format", ["parquet", "tar"])
@pytest.mark.parametrize("column", ["label", "tags"])
def test_what_is_written_is_read_again(tones: Path, tmp_path: Path, file_format: str, column: str) -> None:
    problem = "single_label_classification" if column == "label" else "multi_label_classification"
    dataset = load_audio_folder(tones, label_column=column, problem_type=problem)
    write_shards(dataset, tmp_path / "shards", file_format=file_format, num_shards=4)
    found = find_shards(tmp_path / "shards")
    table = read_label_table(tmp_path / "shards")
    assert table.names == dataset.label_names
    assert {split: len(paths) for split, paths in found.items()} == {"train": 4, "validation": 3, "test": 4}
    for split, paths in found.items():
        read = {}
        for path in paths:
            clips = list(read_shard(path))
            assert count_clips(path) == len(clips)
            for clip in clips:
                label = table.label(clip.label, multi_label=column == "tags", where=clip.name)
                read[clip.name.split("/", 1)[1]] = (clip.audio, label)
        assert read == {clip.name: (clip.content(), clip.label) for clip in dataset.splits[split]}
        assert total_clips(paths) == len(read)


def test_clips_are_shuffled_by_the_seed(tones: Path, tmp_path: Path) -> None:
    dataset = load_audio_folder(tones)
    orders = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        paths = write_shards(dataset, tmp_path / name, num_shards=1, seed=seed)["train"]
        orders.append([clip.name for clip in read_shard(paths[0])])
    assert orders[0] == orders[1] != orders[2]
    assert [f"{name}" for name in orders[0]] != [f"train/{clip.name}" for clip in dataset.splits["train"]]


def test_balanced_shards_hold_every_class_equally_often(tmp_path: Path) -> None:
    waveform = np.zeros(10, np.float32)
    clips = [Clip(f"{n}", "rare" if n < 2 else "common", audio=waveform, sampling_rate=8000) for n in range(20)]
    splits = {"train": clips, "test": clips[:5]}
    dataset = AudioDataset("few", splits, ["common", "rare"], "single_label_classification", {})
    shards = write_shards(dataset, tmp_path / "shards", num_shards=2, balance_classes=True)
    labels = [clip.label for path in shards["train"] for clip in read_shard(path)]
    assert (labels.count("rare"), labels.count("common")) == (10, 10)
    assert total_clips(shards["test"]) == 5


def test_rendered_clips_become_wav_files(tmp_path: Path) -> None:
    waveform = np.linspace(-0.5, 0.5, 100, dtype=np.float32)
    clips = [Clip(f"note {n}", "ab"[n], audio=waveform, sampling_rate=8000) for n in range(2)]
    dataset = AudioDataset("notes", {"train": clips}, ["a", "b"], "single_label_classification", {})
    path = write_shards(dataset, tmp_path / "shards", file_format="tar", num_shards=1)["train"][0]
    for clip in read_shard(path):
        samples, rate = sf.read(io.BytesIO(clip.audio), dtype="float32")
        assert rate == 8000
        np.testing.assert_allclose(samples, waveform, atol=1e-4)


def test_parquet_that_datasets_wrote_is_read(tmp_path: Path, tones: Path) -> None:
    audio = (tones / "clips" / "low-0.wav").read_bytes()
    rows = {"audio": [{"bytes": audio, "path": "low-0.wav"}] * 2, "labels": [["/m/09x0r", "3"], []]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    clips = list(read_shard(find_shards(tmp_path)["train"][0], label_column="labels"))
    assert [clip.audio for clip in clips] == [audio, audio]
    assert [MIDS.label(clip.label, multi_label=True, where="") for clip in clips] == [("Speech", "3"), ()]
    assert len({clip.name for clip in clips}) == 2


def test_names_mids_and_numbers_name_a_class() -> None:
    label = MIDS.label
    assert label("/m/09x0r;Dog, bark", multi_label=True, where="") == ("Speech", "Dog, bark")
    assert label(["Dog, bark", "/m/0bt9lr"], multi_label=True, where="") == ("Dog, bark",)
    assert label([0, 2], multi_label=True, where="") == ("Speech", "3")
    assert label("", multi_label=True, where="") == ()
    assert label("3", multi_label=False, where="") == "3"  # a name, not a number
    assert label(1, multi_label=False, where="") == "Dog, bark"


@pytest.mark.parametrize("value", ["Cat", 3, -1, None, True, ["Speech", "3"]])
def test_labels_that_are_none_of_the_classes_are_refused(value: Any) -> None:
    with pytest.raises(DataError, match=r"clip 7: .*(not among the 3 classes|a single label is needed)"):
        MIDS.label(value, multi_label=False, where="clip 7")


def test_the_label_file_of_audioset_is_read(tmp_path: Path) -> None:
    path = tmp_path / "class_labels_indices.csv"
    path.write_text('index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n')
    table = read_label_table(tmp_path)
    assert table.names == ["Speech", "Male speech, man speaking"]
    assert table.aliases["/m/05zppz"] == "Male speech, man speaking"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "the class names are missing"),
        ("index,name\n0,a\n1,b\n", "display_name must hold"),
        ("index,display_name\n0,a\n", "display_name must hold two or more"),
        ("index,display_name\n0,a\n1,a\n", "different class names"),
        ("index,display_name\n1,a\n0,b\n", "index must count from 0"),
    ],
)
def test_label_files_that_name_no_classes_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_label_table(tmp_path)


def test_shards_are_found_in_folders_and_by_name(tmp_path: Path) -> None:
    for name in ("train/0.tar", "train/1.tar", "val/x.tar", "notes.tar", "sub/test-0.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_shards(tmp_path)
    assert {split: [path.name for path in paths] for split, paths in found.items()} == {
        "train": ["0.tar", "1.tar"],
        "validation": ["x.tar"],
        "test": ["test-0.tar"],
    }
    (tmp_path / "train" / "2.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="the train split has Parquet and tar shards"):
        find_shards(tmp_path)
    with pytest.raises(DataError, match="no shards for training"):
        find_shards(tmp_path / "val")
    with pytest.raises(DataError, match="does not exist"):
        find_shards(tmp_path / "nowhere")


def test_damaged_shards_are_named(tones: Path, tmp_path: Path) -> None:
    dataset = load_audio_folder(tones)
    for file_format in ("parquet", "tar"):
        path = write_shards(dataset, tmp_path / file_format, file_format=file_format, num_shards=1)["train"][0]
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(DataError, match=rf"{path.name} (is damaged after the clip|is not a whole Parquet)"):
            list(read_shard(path))
    with pytest.raises(DataError, match="not a whole tar file"):
        count_clips(path)


def test_what_a_shard_lacks_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"audio": [b"x"], "class": ["a"]}), tmp_path / "train-0.parquet")
    with pytest.raises(DataError, match=r"no column 'label'; its columns are: audio, class"):
        list(read_shard(tmp_path / "train-0.parquet"))
    for content, message in ((b"{", "not usable as JSON"), (b"[1]", "a JSON object"), (b"{}", "has no 'label'")):
        with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
            member = tarfile.TarInfo("clip.json")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        with pytest.raises(DataError, match=message):
            list(read_shard(tmp_path / "train-0.tar"))


def test_a_clip_without_audio_in_a_tar_is_there_without_audio(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for name, content in (("a.json", json.dumps({"label": "x"}).encode()), ("a.txt", b"?"), ("b.wav", b"RIFF")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    reader = read_shard(tmp_path / "train-0.tar")
    assert next(reader).audio == b""
    with pytest.raises(DataError, match="the clip b has no 'label'"):
        next(reader)


def test_shards_need_an_empty_folder_and_classes(tones: Path, tmp_path: Path) -> None:
    dataset = load_audio_folder(tones)
    write_shards(dataset, tmp_path / "shards", num_shards=100)
    assert len(find_shards(tmp_path / "shards")["test"]) == len(dataset.splits["test"])
    with (tmp_path / "shards" / "labels.csv").open(newline="") as file:
        assert [row["display_name"] for row in csv.DictReader(file)] == dataset.label_names
    with pytest.raises(OutputError, match="is not empty"):
        write_shards(dataset, tmp_path / "shards")
    with pytest.raises(UsageError, match="num_shards is 0"):
        write_shards(dataset, tmp_path / "other", num_shards=0)
    with pytest.raises(UsageError, match="file_format 'zip'"):
        write_shards(dataset, tmp_path / "other", file_format="zip")
    numbers = load_audio_folder(tones, label_column="valence", problem_type="regression")
    with pytest.raises(UsageError, match="shards hold classes"):
        write_shards(numbers, tmp_path / "other")
