"""Windows of long recordings: nothing is missed, nothing is read twice, and memory does not grow with the length."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_audio_mamba.errors import AudioError
from hf_audio_mamba.features import iter_windows, load_audio
from tests.features.clips import RATE, tone


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.integers(1, 60), st.integers(1, 60))
def test_windows_cover_every_sample_once_a_hop(samples: int, window: int, hop: int) -> None:
    hop = min(hop, window)
    clip = np.arange(1, samples + 1, dtype=np.float32)
    rate = 1000
    windows = list(iter_windows(clip, sampling_rate=rate, window_seconds=window / rate, hop_seconds=hop / rate))
    for index, cut in enumerate(windows):
        start = index * hop
        assert np.array_equal(cut.samples, clip[start : start + window])
        assert (cut.start_s, cut.end_s) == (start / rate, (start + len(cut.samples)) / rate)
    assert [len(cut.samples) for cut in windows[:-1]] == [window] * (len(windows) - 1)
    # The last one is the first to reach the end.
    assert windows[-1].end_s == samples / rate
    assert all(cut.end_s < samples / rate for cut in windows[:-1])


@pytest.mark.parametrize("rate", [RATE, 22050, 48000])
@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
def test_streaming_equals_loading(rate: int, format: str, encoded: Callable[..., bytes], tmp_path: Path) -> None:
    left, right = tone(25.0, rate=rate), tone(25.0, rate=rate, frequency=1000, seed=1)
    content = encoded(np.stack([left, right], axis=1), format=format, rate=rate)
    path = tmp_path / f"clip.{format.lower()}"
    path.write_bytes(content)
    whole, _ = load_audio(path, sampling_rate=RATE)
    for source in (path, content):
        windows = list(iter_windows(source, sampling_rate=RATE, window_seconds=7, hop_seconds=7))
        assert len(windows) == 4
        streamed = np.concatenate([cut.samples for cut in windows])
        assert abs(len(streamed) - len(whole)) <= 1
        length = min(len(streamed), len(whole))
        np.testing.assert_allclose(streamed[:length], whole[:length], atol=1e-5)


def test_a_short_file_is_one_short_window(encoded: Callable[..., bytes]) -> None:
    for samples in (1, 2, 100):
        for rate in (RATE, 192000, 8000):
            content = encoded(tone(1.0, rate=rate)[:samples], rate=rate)
            (only,) = iter_windows(content, sampling_rate=RATE, window_seconds=10, hop_seconds=5)
            assert 1 <= len(only.samples) <= max(1, round(samples * RATE / rate))
            assert only.start_s == 0


def test_windows_own_their_samples() -> None:
    first, second, *_ = iter_windows(tone(1.0), sampling_rate=RATE, window_seconds=0.2, hop_seconds=0.1)
    expected = second.samples.copy()
    first.samples[:] = 9
    assert np.array_equal(second.samples, expected)


@pytest.mark.parametrize(
    ("window", "hop", "message"),
    [
        (0, 1, "window_seconds"),
        (-1, 1, "window_seconds"),
        (float("nan"), 1, "window_seconds"),
        ("10", 1, "window_seconds"),
        (1e-9, 1e-9, "less than one sample"),
        (10, 0, "hop_seconds"),
        (10, float("inf"), "hop_seconds"),
        (10, 11, "would skip audio"),
    ],
)
def test_senseless_settings_are_refused_at_once(window: float, hop: float, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        iter_windows(tone(0.1), sampling_rate=RATE, window_seconds=window, hop_seconds=hop)


def test_damage_is_reported_where_it_is_met(encoded: Callable[..., bytes], tmp_path: Path) -> None:
    content = bytearray(encoded(tone(60.0), format="FLAC"))
    content[len(content) // 2 : len(content) // 2 + 500] = bytes(500)
    path = tmp_path / "damaged.flac"
    path.write_bytes(bytes(content))
    windows = iter_windows(path, sampling_rate=RATE, window_seconds=1, hop_seconds=1)
    assert len(next(windows).samples) == RATE
    with pytest.raises(AudioError, match=r"damaged\.flac"):
        list(windows)
    with pytest.raises(AudioError, match=r"missing\.wav"):
        list(iter_windows(tmp_path / "missing.wav", sampling_rate=RATE, window_seconds=1, hop_seconds=1))


PEAK_MEMORY = """
import resource, sys
from hf_audio_mamba.features import iter_windows
seconds = 0.0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for window in iter_windows(sys.argv[1], sampling_rate=44100, window_seconds=30, hop_seconds=25):
    seconds = window.end_s
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs getrusage")
@pytest.mark.parametrize("minutes", [40, pytest.param(120, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_length_of_a_file(minutes: int, tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    minute = (1000 * np.sin(np.arange(8000 * 60) * 0.3)).astype(np.int16)
    with soundfile.SoundFile(path, "w", 8000, 1, format="FLAC") as file:
        for _ in range(minutes):
            file.write(minute)
    finished = subprocess.run(
        [sys.executable, "-c", PEAK_MEMORY, str(path)], capture_output=True, text=True, check=True, timeout=300
    )
    seconds, growth_kib = map(float, finished.stdout.split())
    assert seconds == pytest.approx(60 * minutes, abs=0.01)
    # Forty minutes at 44.1 kHz would take 413,000 KiB.
    assert growth_kib < 150_000
