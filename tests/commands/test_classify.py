"""`classify`: files and folders in, table, JSON and figures out, exit statuses."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hf_audio_mamba import MoMambaConfig, MoMambaFeatureExtractor, MoMambaForAudioClassification
from hf_audio_mamba.commands import classify
from hf_audio_mamba.commands._spectrogram import MAX_COLUMNS, display_spectrogram
from hf_audio_mamba.commands.main import run_command
from tests.commands.processes import started

RATE = 16000
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "classify_audio.py"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    names = ["bass", "cello", "drums", "flute", "oboe", "organ"]
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "state_size": 2, "num_mel_bins": 16}
    MoMambaForAudioClassification(MoMambaConfig(**sizes, id2label=dict(enumerate(names)))).save_pretrained(folder)
    MoMambaFeatureExtractor(
        sampling_rate=RATE, n_fft=960, win_length=960, hop_length=160, num_mel_bins=16
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good files in two folders, and what is to be left out."""
    root = tmp_path_factory.mktemp("clips")
    (root / "more").mkdir()
    (root / ".hidden").mkdir()
    rng = np.random.default_rng(0)
    for name in ("b.flac", "a.wav", "more/A.WAV", ".hidden/c.wav", ".d.wav"):
        soundfile.write(root / name, 0.1 * rng.standard_normal(RATE), RATE)
    (root / "notes.txt").write_text("no audio")
    return root


@pytest.fixture
def classify_audio(model: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process; returns exit status, standard output and standard error."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        words = ["--model", str(model), "--device", "cpu", *map(str, arguments)]
        try:
            status = run_command(classify.run, words, prog="classify")
        except SystemExit as error:  # argparse
            status = int(str(error.code))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()]


def test_a_folder_is_searched_at_any_depth_and_sorted(classify_audio: Run, folder: Path) -> None:
    status, out, err = classify_audio(folder, "--top_k", 1)
    assert (status, err) == (0, "")
    header, *lines = rows(out)
    assert header == ["file", "label", "score"]
    assert [line[0] for line in lines] == [str(folder / name) for name in ("a.wav", "b.flac", "more/A.WAV")]
    assert all(0 < float(line[2]) < 1 for line in lines)


def test_scores_are_those_of_the_pipeline(classify_audio: Run, folder: Path, model: Path) -> None:
    from transformers import pipeline

    pipe = pipeline("audio-classification", model=str(model), device="cpu")
    _, out, _ = classify_audio(folder / "a.wav", folder / "b.flac", "--json", "--top_k", 3, "--batch_size", 2)
    report = json.loads(out)
    assert report["model"] == str(model)
    assert report["failed"] == []
    for entry, name in zip(report["files"], ("a.wav", "b.flac"), strict=True):
        assert list(entry) == ["file", "labels"]
        assert entry["file"] == str(folder / name)
        expected = pipe(folder / name, top_k=3)
        assert [label["label"] for label in entry["labels"]] == [label["label"] for label in expected]
        scores = [label["score"] for label in expected]
        assert [label["score"] for label in entry["labels"]] == pytest.approx(scores, abs=1e-5)


def test_a_file_is_listed_once(classify_audio: Run, folder: Path) -> None:
    _, out, _ = classify_audio(folder / "a.wav", folder, folder / "a.wav", "--top_k", 1)
    assert len(rows(out)) == 1 + 3


def test_windows_and_timestamps(classify_audio: Run, folder: Path) -> None:
    options = ("--chunk_length_s", 0.5, "--stride_length_s", 0.05, "--timestamps", "--top_k", 1)
    status, out, _ = classify_audio(folder / "a.wav", *options)
    assert status == 0
    assert [line[1] for line in rows(out)] == ["seconds", "all", "0.00-0.45", "0.45-0.85", "0.85-1.00"]
    _, out, _ = classify_audio(folder / "a.wav", "--json", *options)
    (entry,) = json.loads(out)["files"]
    assert [window["timestamp"] for window in entry["timeline"]] == [[0, 0.45], [0.45, 0.85], [0.85, 1.0]]
    assert [len(window["labels"]) for window in entry["timeline"]] == [1, 1, 1]
    _, out, _ = classify_audio(folder / "a.wav", "--chunk_length_s", 0.5, "--json")
    assert "timeline" not in json.loads(out)["files"][0]


@pytest.mark.parametrize("batch_size", [1, 2, 10])
def test_files_that_fail_are_named_and_counted_and_the_others_scored(
    batch_size: int, classify_audio: Run, folder: Path, tmp_path: Path
) -> None:
    bad, empty = tmp_path / "bad.wav", tmp_path / "empty"
    bad.write_bytes(b"not audio at all")
    empty.mkdir()
    inputs = (folder / "a.wav", bad, tmp_path / "gone.wav", empty, folder / "b.flac")
    status, out, err = classify_audio(*inputs, "--top_k", 1, "--batch_size", batch_size)
    assert status == 1
    assert [line[0] for line in rows(out)[1:]] == [str(folder / "a.wav"), str(folder / "b.flac")]
    failed = err.splitlines()
    assert len(failed) == 4
    for line, reason in zip(
        failed, ("bad.wav' cannot be decoded", "gone.wav' does not", "no audio files"), strict=False
    ):
        assert line.startswith("failed: ")
        assert reason in line
    assert failed[3] == "3 of 5 inputs could not be classified"

    status, out, _ = classify_audio(*inputs, "--json")
    assert status == 1
    report = json.loads(out)
    assert [entry["file"] for entry in report["failed"]] == [str(path) for path in (bad, tmp_path / "gone.wav", empty)]
    assert len(report["files"]) == 2


def test_json_file_beside_the_table(classify_audio: Run, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "scores.json"
    target.write_text("old")
    status, out, _ = classify_audio(folder, "--json", target)
    assert status == 0
    assert len(rows(out)) == 1 + 3 * 5
    assert len(json.loads(target.read_text())["files"]) == 3
    assert list(tmp_path.iterdir()) == [target]


def test_json_file_that_cannot_be_written(classify_audio: Run, folder: Path, tmp_path: Path) -> None:
    status, _, err = classify_audio(folder / "a.wav", "--json", tmp_path / "gone" / "scores.json")
    assert status == 1
    assert "scores.json could not be written" in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--top_k", "0", "a.wav"), "--top_k"),
        (("--top_k", "x", "a.wav"), "--top_k"),
        (("--batch_size", "-1", "a.wav"), "--batch_size"),
        (("--timestamps", "a.wav"), "needs --chunk_length_s"),
        (("--stride_length_s", "1", "a.wav"), "needs --chunk_length_s"),
        (("--chunk_length_s", "0", "a.wav"), "chunk_length_s"),
        (("--chunk_length_s", "nan", "a.wav"), "chunk_length_s"),
        (("--chunk_length_s", "2", "--stride_length_s", "1", "a.wav"), "stride_length_s"),
        (("--device", "toaster", "a.wav"), "--device toaster"),
        (("--device", "meta", "a.wav"), "--device meta"),
        (("--frobnicate", "a.wav"), "--frobnicate"),
        (("--chunk", "3", "a.wav"), "--chunk"),
        ((), "FILE_OR_FOLDER"),
        (("--json", "a.wav"), "FILE_OR_FOLDER"),
        (("b.wav", "--json", "a.wav"), "put the inputs first"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_wrong_usage_is_2(arguments: tuple[str, ...], named: str, classify_audio: Run) -> None:
    status, out, err = classify_audio(*arguments)
    assert status == 2
    assert named in err
    assert "Traceback" not in err
    assert out == ""


def test_a_model_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        classify.run(["a.wav"])
    assert raised.value.code == 2
    assert "--model" in capsys.readouterr().err


def test_a_damaged_model_is_1(classify_audio: Run, folder: Path, model: Path, tmp_path: Path) -> None:
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(
            file.read_bytes()[:-200] if file.suffix == ".safetensors" else file.read_bytes()
        )
    status, out, err = classify_audio(folder, "--model", tmp_path)
    assert (status, out) == (1, "")
    assert str(tmp_path) in err
    assert "Traceback" not in err


def test_figures(classify_audio: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes((folder / "a.wav").read_bytes())
    plots = tmp_path / "new" / "plots"
    status, _, err = classify_audio(folder / "a.wav", tmp_path / "a.wav", "--plot", plots)
    assert (status, err) == (0, "")
    status, _, err = classify_audio(folder / "b.flac", "--plot", plots, "--chunk_length_s", 0.5)
    assert (status, err) == (0, "")
    assert sorted(path.name for path in plots.iterdir()) == ["a.png", "a_2.png", "b.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in plots.iterdir())


def test_figures_where_no_folder_can_be(classify_audio: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, _, err = classify_audio(folder, "--plot", tmp_path / "file" / "plots")
    assert status == 1
    assert "--plot" in err


def test_names_that_a_terminal_would_obey_or_cannot_show(classify_audio: Run, folder: Path, tmp_path: Path) -> None:
    content = (folder / "a.wav").read_bytes()
    for name in (b"red\x1b[31m.wav", b"kl\xe4ng.wav"):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write(content)
    (tmp_path / "kläng.wav").write_bytes(content)
    status, out, err = classify_audio(tmp_path, "--top_k", 1)
    assert (status, err) == (0, "")
    names = [line[0].removeprefix(f"{tmp_path}/") for line in rows(out)[1:]]
    assert sorted(names) == sorted(["red\\x1b[31m.wav", "kl\\udce4ng.wav", "kläng.wav"])
    status, out, _ = classify_audio(tmp_path, "--json")
    assert {os.fsencode(entry["file"]) for entry in json.loads(out)["files"]} == {
        os.fsencode(tmp_path) + b"/" + name for name in (b"red\x1b[31m.wav", b"kl\xe4ng.wav", "kläng.wav".encode())
    }


def test_display_spectrogram_by_hand(tmp_path: Path) -> None:
    """Two minutes of silence but for a second of 1 kHz: narrow enough, at the right time, in the right band."""
    samples = np.zeros(120 * RATE, dtype=np.float32)
    samples[60 * RATE : 61 * RATE] = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    path = tmp_path / "tone.wav"
    soundfile.write(path, samples, RATE)
    spectrogram = display_spectrogram(path, sampling_rate=RATE)
    columns, bands = spectrogram.level.shape
    assert columns <= MAX_COLUMNS
    assert columns / spectrogram.columns_per_second == pytest.approx(120, rel=1e-3)
    column, band = np.unravel_index(spectrogram.level.argmax(), (columns, bands))
    assert 60 <= column / spectrogram.columns_per_second <= 61
    assert spectrogram.band_frequencies[band] == pytest.approx(1000, rel=0.05)
    loud = np.flatnonzero(spectrogram.level.max(axis=1) > -20) / spectrogram.columns_per_second
    assert loud.min() > 59.9
    assert loud.max() < 61.1
    assert spectrogram.level.min() == -80


@pytest.fixture
def long_job(model: Path, folder: Path, tmp_path: Path) -> list[str]:
    """A command that prints a line soon and has work for minutes after it."""
    endless = tmp_path / "endless.wav"
    with soundfile.SoundFile(endless, "w", 8000, 1) as file:
        for _ in range(120):
            file.write(np.full(60 * 8000, 0.1, dtype=np.float32))
    inputs = [str(folder / "a.wav"), str(endless)]
    options = ["--chunk_length_s", "0.5", "--stride_length_s", "0.2", "--json", str(tmp_path / "scores.json")]
    return [sys.executable, str(SCRIPT), "--model", str(model), "--device", "cpu", *inputs, *options]


def test_ctrl_c_is_130_and_leaves_no_half_file(long_job: list[str], tmp_path: Path) -> None:
    with started(long_job) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().split() == ["file", "label", "score"]
        assert "a.wav" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) == 130
        assert "Traceback" not in process.stderr.read()
    assert [path.name for path in tmp_path.iterdir()] == ["endless.wav"]


def test_closed_standard_output_is_no_error(model: Path, folder: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--model", str(model), "--device", "cpu", str(folder)]
    with started(command) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=300) == 0
        assert process.stderr.read() == ""
