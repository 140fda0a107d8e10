from pathlib import Path

import pytest

from hf_audio_mamba.commands.main import run_command
from hf_audio_mamba.commands.shards import FORMATS, run
from hf_audio_mamba.data import find_shards, shard_writer
from hf_audio_mamba.data.shards import read_shard
from tests.training.tone_folder import write_tones


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"))


def test_a_fold_becomes_the_test_shards(tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "shards"
    options = ["--data_dir", str(tones), "--fold", "2", "--output_dir", str(output), "--format", "tar"]
    tags = ["--label_column", "tags", "--problem_type", "multi_label_classification"]
    assert run([*options, *tags, "--num_shards", "3"]) == 0
    found = find_shards(output)
    assert {split: len(paths) for split, paths in found.items()} == {"train": 3, "validation": 3, "test": 3}
    said = capsys.readouterr().out
    assert "test: 9 clips in 3 shards" in said
    assert f"--streaming --data_dir {output}" in said
    labels = {tuple(clip.label) for path in found["test"] for clip in read_shard(path)}
    assert ("low", "tonal") in labels


def test_what_cannot_be_packed_is_refused(tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    data = ["--data_dir", str(tones)]
    for options, status, message in (
        ([*data, "--fold", "all", "--output_dir", str(tmp_path / "a")], 2, "--fold all is for cross-validation"),
        (["--output_dir", str(tmp_path / "a")], 2, "either --data_dir FOLDER or --dataset_name"),
        ([*data, "--output_dir", str(tmp_path / "full")], 1, "is not empty"),
        ([*data, "--output_dir", str(tmp_path / "a"), "--num_shards", "0"], 2, "num_shards is 0"),
    ):
        assert run_command(run, options) == status
        assert message in capsys.readouterr().err


def test_help_names_the_formats_that_there_are() -> None:
    assert FORMATS == shard_writer.FORMATS
