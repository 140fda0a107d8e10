"""Scoring window by window: values worked out by hand, batches, and memory."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_audio_mamba.errors import AudioError
from hf_audio_mamba.pipelines import AudioClassificationPipeline
from hf_audio_mamba.pipelines.clips import MAX_WHOLE_CLIP_S

RATE = 8000


def steps(*levels_and_seconds: tuple[float, float]) -> np.ndarray:
    """A clip at 8 kHz that holds each level for so many seconds."""
    return np.concatenate([np.full(round(s * RATE), level, dtype=np.float32) for level, s in levels_and_seconds])


def score_of(labels: list[dict[str, float | str]], name: str = "high") -> float:
    return float(next(entry["score"] for entry in labels if entry["label"] == name))


def test_timeline_by_hand(level: AudioClassificationPipeline) -> None:
    result = level(steps((1, 2), (3, 2), (5, 1)), chunk_length_s=2.0, return_timestamps=True)
    timeline = [(entry["timestamp"], score_of(entry["labels"])) for entry in result["timeline"]]
    # The last second is heard together with the one before it: (3 + 5) / 2.
    assert timeline == [((0, 2), 1.0), ((2, 4), 3.0), ((4, 5), 4.0)]
    assert score_of(result["labels"]) == pytest.approx((2 * 1 + 2 * 3 + 1 * 4) / 5)
    assert [entry["label"] for entry in result["labels"]] == ["high", "zero", "low"]
    assert list(result) == ["labels", "timeline"]


def test_every_second_has_one_weight_whatever_the_overlap(level: AudioClassificationPipeline) -> None:
    clip = steps((1, 10), (0, 10))
    for chunk, stride in ((2, 0), (2, 0.5), (4, 1), (4, (1.5, 0)), (4, (0, 1.5)), (1.5, 0.7)):
        score = score_of(level(clip, chunk_length_s=chunk, stride_length_s=stride))
        # Only the window or two across the middle hear both levels; per-window weights would not stay at one half
        # for the one-sided contexts.
        assert score == pytest.approx(0.5, abs=1.5 / 20), (chunk, stride)


def test_a_short_rest_weighs_what_it_lasts(level: AudioClassificationPipeline) -> None:
    # Windows 0-1, 1-2, ..., 9-10 at 0 and a rest of 0.01 s at 1, heard with 0.99 s of 0: not an eleventh of the score.
    score = score_of(level(steps((0, 10), (1, 0.01)), chunk_length_s=1.0))
    assert score == pytest.approx(0.01 * 0.01 / 10.01, rel=1e-3)


def test_timeline_averages_to_the_clip_s_scores(momamba: AudioClassificationPipeline, wav: Path) -> None:
    result = momamba(wav, chunk_length_s=0.7, stride_length_s=0.1, return_timestamps=True, top_k=None)
    names = {entry["label"] for entry in result["labels"]}
    seconds = [end - start for start, end in (entry["timestamp"] for entry in result["timeline"])]
    assert sum(seconds) == pytest.approx(3.0)
    for name in names:
        mean = np.average([score_of(entry["labels"], name) for entry in result["timeline"]], weights=seconds)
        assert score_of(result["labels"], name) == pytest.approx(mean, abs=1e-6)


def test_a_clip_shorter_than_the_window_is_scored_whole(
    momamba: AudioClassificationPipeline, noise: np.ndarray, same_labels: Callable[..., None]
) -> None:
    same_labels(momamba(noise, chunk_length_s=10.0, stride_length_s=2.0), momamba(noise))


def test_files_arrays_and_dicts_give_the_same_windows(
    momamba: AudioClassificationPipeline, noise: np.ndarray, wav: Path, same_labels: Callable[..., None]
) -> None:
    arguments = {"chunk_length_s": 1.0, "stride_length_s": 0.2, "return_timestamps": True}
    expected = momamba(noise, **arguments)
    for clip in (wav, wav.read_bytes(), {"array": noise, "sampling_rate": 16000}, noise.tolist()):
        result = momamba(clip, **arguments)
        same_labels(result["labels"], expected["labels"])
        for entry, other in zip(result["timeline"], expected["timeline"], strict=True):
            assert entry["timestamp"] == other["timestamp"]
            same_labels(entry["labels"], other["labels"])


def test_windows_of_several_clips_share_batches(
    level: AudioClassificationPipeline, same_labels: Callable[..., None]
) -> None:
    clips = [steps((1, 3.5)), steps((2, 0.2)), steps((3, 2)), steps((1, 1), (4, 4))]
    arguments = {"chunk_length_s": 1.0, "stride_length_s": 0.1}
    expected = [level(clip, **arguments) for clip in clips]
    level.model.batch_sizes.clear()
    same_labels(level(clips, batch_size=4, **arguments), expected)
    assert level.model.batch_sizes[:-1] == [4] * (len(level.model.batch_sizes) - 1)
    same_labels(level(clips[0], batch_size=4, **arguments), expected[0])
    same_labels(list(level((clip for clip in clips), batch_size=3, **arguments)), expected)


def test_a_long_clip_is_heard_whole_or_refused(level: AudioClassificationPipeline, tmp_path: Path) -> None:
    level(steps((1, 60)))
    assert level.model.heard == [60 * RATE]
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(1000 * (int(MAX_WHOLE_CLIP_S) + 1), dtype=np.int16), 1000)
    for clip in (path, np.zeros(RATE * (int(MAX_WHOLE_CLIP_S) + 1), dtype=np.float32)):
        with pytest.raises(AudioError, match=r"601 s long.*chunk_length_s"):
            level(clip)


_MEASURE = """
import json, resource, sys
import hf_audio_mamba
from transformers import pipeline
classify = pipeline("audio-classification", model=sys.argv[1], device="cpu")
arguments = dict(chunk_length_s=10.0, stride_length_s=1.0, batch_size=4, return_timestamps=True)
classify(sys.argv[2], **arguments)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = classify(sys.argv[3], **arguments)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([len(result["timeline"]), (after - before) / 1024]))
"""


def _grown_memory(momamba_folder: Path, tmp_path: Path, minutes: int) -> tuple[int, float]:
    """Windows of a recording of so many minutes, and MiB that its scoring takes beyond that of four minutes."""
    paths = []
    for length in (4, minutes):
        paths.append(tmp_path / f"{length}.wav")
        with soundfile.SoundFile(paths[-1], "w", 8000, 1, subtype="PCM_16") as file:
            for minute in range(length):
                file.write(0.1 * np.random.default_rng(minute).standard_normal(60 * 8000).astype(np.float32))
    command = [sys.executable, "-c", _MEASURE, str(momamba_folder), *map(str, paths)]
    # glibc keeps freed blocks of up to 32 MiB unless told not to, which would hide what is really held.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "100000", "MALLOC_TRIM_THRESHOLD_": "100000"}
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=900, env=environment).stdout
    windows, grown = json.loads(output)
    return windows, grown


def test_memory_does_not_grow_with_length(momamba_folder: Path, tmp_path: Path) -> None:
    # Held in memory, the additional 12 minutes would be 44 MiB of samples at 16 kHz and 9 MiB of features.
    windows, grown = _grown_memory(momamba_folder, tmp_path, 16)
    assert windows == 120
    assert grown < 8


@pytest.mark.slow
def test_two_hours_in_constant_memory(momamba_folder: Path, tmp_path: Path) -> None:
    # Samples and features of two hours would be 510 MiB.
    windows, grown = _grown_memory(momamba_folder, tmp_path, 120)
    assert windows == 900
    assert grown < 8
