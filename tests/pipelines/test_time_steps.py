"""Scores over time from a model that scores its time steps, AudioMamba."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import pipeline

from hf_audio_mamba import AudioMambaConfig, AudioMambaFeatureExtractor, AudioMambaForAudioClassification
from hf_audio_mamba.commands import classify
from hf_audio_mamba.pipelines.windows import steps_within

RATE, HOP = 8000, 80
STEP_S = 8 * HOP / RATE  # two stages: a step is 8 frames
WINDOW_S = 128 * HOP / RATE
SIZES = {"embed_dim": 4, "depths": [1, 1], "num_mel_bins": 8, "spec_size": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audio_mamba")
    torch.manual_seed(0)
    config = AudioMambaConfig(**SIZES, id2label={0: "bark", 1: "bell", 2: "rain"})
    AudioMambaForAudioClassification(config).save_pretrained(path)
    AudioMambaFeatureExtractor(
        sampling_rate=RATE,
        n_fft=256,
        win_length=256,
        hop_length=HOP,
        num_mel_bins=8,
        f_max=4000.0,
        num_frames=128,
        clip_seconds=1.0,
    ).save_pretrained(path)
    return path


def noise(seconds: float) -> np.ndarray:
    samples = np.random.default_rng(0).standard_normal(round(seconds * RATE))
    return (samples * np.linspace(0.01, 0.5, len(samples))).astype(np.float32)


def assert_covers(timeline: list[dict], seconds: float) -> None:
    starts, ends = zip(*(entry["timestamp"] for entry in timeline), strict=True)
    assert starts[0] == 0
    assert ends[-1] == pytest.approx(seconds)
    assert starts[1:] == pytest.approx(ends[:-1])
    assert max(np.subtract(ends, starts)) <= STEP_S + 1e-9


@pytest.mark.parametrize("seconds", [0.5, WINDOW_S, 3.3])
def test_time_steps_cover_a_whole_clip_with_the_models_own_scores(folder: Path, seconds: float) -> None:
    pipe = pipeline("audio-classification", model=str(folder), device="cpu")
    clip = noise(seconds)
    result = pipe(clip, return_timestamps=True, top_k=None)
    assert_covers(result["timeline"], seconds)
    inputs = pipe.feature_extractor(clip, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        expected = pipe.model(**inputs).framewise_logits[0].softmax(-1)
    for entry, row in zip(result["timeline"], expected, strict=False):
        scores = {label["label"]: label["score"] for label in entry["labels"]}
        assert [scores[name] for name in ("bark", "bell", "rain")] == pytest.approx(row.tolist(), abs=1e-6)
    assert result["labels"] == pipe(clip, top_k=None)


@pytest.mark.parametrize("stride", [0, 0.2])
def test_time_steps_of_windows_cover_a_recording_once(folder: Path, stride: float) -> None:
    pipe = pipeline("audio-classification", model=str(folder), device="cpu")
    result = pipe(noise(3.1), return_timestamps=True, chunk_length_s=1.28, stride_length_s=stride, batch_size=2)
    assert_covers(result["timeline"], 3.1)


def test_steps_are_placed_and_cut_by_hand() -> None:
    scores = torch.arange(4.0)[:, None]
    found = [(round(a, 6), round(b, 6), row.item()) for (a, b), row in steps_within(scores, 0.5, 10.0, 10.25, 11.5)]
    assert found == [(10.25, 10.5, 0.0), (10.5, 11.0, 1.0), (11.0, 11.5, 2.0)]


def test_the_command_shows_and_draws_them(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "clip.wav", noise(0.6), RATE)
    arguments = ["--model", str(folder), "--device", "cpu", "--top_k", "1", str(tmp_path / "clip.wav"), "--timestamps"]
    assert classify.run([*arguments, "--plot", str(tmp_path / "plots")]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 + 8  # a title, the whole clip, and 0.6 s in steps of 80 ms
    assert "0.00-0.08" in rows[2]
    assert "0.56-0.60" in rows[9]
    assert (tmp_path / "plots" / "clip.png").read_bytes().startswith(b"\x89PNG")
