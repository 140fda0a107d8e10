"""The feature extractor: values, lengths, alignment, saving and loading; the shared base has its tests with MoMamba."""

import json
import math
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from hf_audio_mamba import AudioMambaFeatureExtractor
from hf_audio_mamba.errors import AudioError, UsageError
from hf_audio_mamba.features import load_audio
from hf_audio_mamba.features.samples import Float32Array
from hf_audio_mamba.ops import numba_cpu
from tests.features.clips import tone

RATE = 32000
SMALL: dict[str, Any] = {"num_frames": 128, "clip_seconds": 1.0}  # 101 frames, aligned to 128


def clip_of(seconds: float, **options: Any) -> Float32Array:
    return tone(seconds, rate=RATE, **options)


def values(extractor: AudioMambaFeatureExtractor, audio: Any, **options: Any) -> Any:
    return extractor(audio, sampling_rate=RATE, **options)["input_values"]


def in_decibels(clip: Float32Array) -> Any:
    mel = librosa.feature.melspectrogram(
        y=clip, sr=RATE, n_fft=1024, hop_length=320, pad_mode="reflect", n_mels=64, fmin=50, fmax=14000
    )
    return librosa.power_to_db(mel, ref=1.0, amin=1e-10, top_db=None).T


def test_ten_seconds_are_librosas_decibels_and_silence_up_to_1024_frames() -> None:
    clip = clip_of(10.0)
    result = values(AudioMambaFeatureExtractor(), clip)
    assert result.shape == (1, 1024, 64)
    assert result.dtype == np.float32
    expected = in_decibels(np.pad(clip, (0, 1023 * 320 - len(clip))))
    np.testing.assert_allclose(result[0], expected, atol=0.01)
    assert (result[0, 1002:] == -100).all()


@pytest.mark.parametrize("with_numba", [True, False])
def test_real_clips_equal_librosa(shared_data: Path, with_numba: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_numba:
        monkeypatch.setattr(numba_cpu, "unavailable_reason", lambda: "not installed")
    extractor = AudioMambaFeatureExtractor(num_frames=100, clip_seconds=0.5)
    for path in sorted((shared_data / "esc10" / "audio").glob("*.ogg"))[::80]:
        clip, _ = load_audio(path, sampling_rate=RATE)
        np.testing.assert_allclose(values(extractor, clip)[0], in_decibels(clip), atol=0.01, err_msg=str(path))


def test_long_clips_stay_long() -> None:
    clip = clip_of(2.0)
    for options in ({}, {"time_align": "interpolate"}, {"short_clips": "repeat"}):
        result = values(AudioMambaFeatureExtractor(**SMALL, **options), clip)
        np.testing.assert_allclose(result[0], in_decibels(clip), atol=0.01)


@pytest.mark.parametrize("samples", [1, 100, 12345, 32000, 40639])
def test_every_clip_up_to_a_window_gives_a_window(samples: int) -> None:
    clip = clip_of(1.5)[:samples]
    for time_align in ("pad", "interpolate"):
        for short_clips in ("pad", "repeat"):
            extractor = AudioMambaFeatureExtractor(**SMALL, time_align=time_align, short_clips=short_clips)
            inputs = extractor(clip, sampling_rate=RATE)
            assert inputs["input_values"].shape == (1, 128, 64)
            assert inputs["attention_mask"].all()
            assert np.isfinite(inputs["input_values"]).all()


def cubic(x: float) -> float:
    """Keys' convolution kernel (1981) with a = -3/4."""
    x, a = abs(x), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def test_interpolation_stretches_the_frames_by_cubic_convolution() -> None:
    clip = clip_of(1.0)
    result = values(AudioMambaFeatureExtractor(**SMALL, time_align="interpolate"), clip)[0]
    frames = in_decibels(clip).astype(np.float64)
    expected = np.zeros((128, 64))
    for row in range(128):
        place = row * 100 / 127
        for near in range(int(place) - 1, int(place) + 3):
            expected[row] += cubic(place - near) * frames[min(max(near, 0), 100)]
    np.testing.assert_allclose(result, expected, atol=0.02)


def test_a_clip_already_as_long_as_the_window_is_not_stretched() -> None:
    clip = clip_of(127 * 320 / RATE)
    for time_align in ("pad", "interpolate"):
        result = values(AudioMambaFeatureExtractor(**SMALL, time_align=time_align), clip)[0]
        np.testing.assert_allclose(result, in_decibels(clip), atol=0.01)


def test_short_clips_repeat_as_often_as_they_fit() -> None:
    clip = clip_of(0.3)
    repeating = AudioMambaFeatureExtractor(**SMALL, short_clips="repeat")
    plain = AudioMambaFeatureExtractor(**SMALL)
    np.testing.assert_array_equal(values(repeating, clip), values(plain, np.tile(clip, 3)))
    np.testing.assert_array_equal(values(repeating, clip_of(0.6)), values(plain, clip_of(0.6)))
    # ESC-50: 5 s twice.
    clip = clip_of(5.0)
    twice = values(AudioMambaFeatureExtractor(short_clips="repeat"), clip)
    np.testing.assert_array_equal(twice, values(AudioMambaFeatureExtractor(), np.tile(clip, 2)))


def test_a_batch_equals_its_clips_one_by_one() -> None:
    extractor = AudioMambaFeatureExtractor(**SMALL)
    batch = [clip_of(seconds, frequency=100 + 300 * seconds) for seconds in (0.4, 1.7, 1.3)]
    together = extractor(batch, sampling_rate=RATE)
    assert together["attention_mask"].sum(1).tolist() == [128, 171, 131]
    for index, clip in enumerate(batch):
        alone = values(extractor, clip)[0]
        np.testing.assert_array_equal(together["input_values"][index, : len(alone)], alone)
        assert (together["input_values"][index, len(alone) :] == -100).all()


def test_levels_are_absolute() -> None:
    extractor = AudioMambaFeatureExtractor(**SMALL)
    clip = clip_of(1.0)
    loud, quiet = values(extractor, clip)[0, :100], values(extractor, clip * np.float32(0.1))[0, :100]
    np.testing.assert_allclose(loud - quiet, 20, atol=0.01)
    assert (extractor.floor, extractor.ceiling, extractor.units_per_db) == (-100, math.inf, 1)
    assert (values(extractor, np.zeros(RATE)) == extractor.floor).all()
    assert extractor.frames_per_second == 100


SETTINGS: dict[str, Any] = {
    "sampling_rate": 16000,
    "n_fft": 512,
    "win_length": 400,
    "hop_length": 160,
    "num_mel_bins": 32,
    "f_min": 20.0,
    "f_max": 7600.0,
    "num_frames": 128,
    "clip_seconds": 1.2,
    "time_align": "interpolate",
    "short_clips": "repeat",
    "padding_side": "left",
    "padding_value": -1.5,
    "return_attention_mask": False,
}


@pytest.mark.parametrize("loader", [AudioMambaFeatureExtractor, AutoFeatureExtractor])
def test_saving_and_loading_lose_nothing(loader: Any, tmp_path: Path) -> None:
    saved = AudioMambaFeatureExtractor(**SETTINGS)
    saved.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert content == {**SETTINGS, "feature_size": 32, "feature_extractor_type": "AudioMambaFeatureExtractor"}
    loaded = loader.from_pretrained(tmp_path)
    assert type(loaded) is AudioMambaFeatureExtractor
    assert loaded.to_dict() == saved.to_dict()
    clips = [tone(0.1, rate=16000), tone(1.5, rate=16000)]
    for key, value in saved(clips, sampling_rate=16000, return_attention_mask=True).items():
        np.testing.assert_array_equal(loaded(clips, sampling_rate=16000, return_attention_mask=True)[key], value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({name: 0}, name) for name in SETTINGS if name not in ("f_min", "padding_value")),
        *(({name: "7"}, name) for name in SETTINGS),
        *(({name: None}, name) for name in SETTINGS if name != "f_max"),
        *(({name: float("nan")}, name) for name in ("f_min", "f_max", "clip_seconds", "padding_value")),
        ({"f_max": 17000.0}, "f_max must be .* up to 16000 Hz"),
        ({"f_min": 14000.0}, "f_max must be above f_min"),
        ({"sampling_rate": 16000}, "f_max"),
        ({"num_frames": 10**12}, "num_frames"),
        ({"n_fft": 10**12}, "n_fft"),
        ({"clip_seconds": 11.0}, "1101 frames.*num_frames 1024"),
        ({"num_mel_bins": 1}, "num_mel_bins"),
        ({"feature_size": 32}, "feature_size 32 contradicts"),
        ({"top_db": 80.0}, "no setting top_db"),
    ],
    ids=str,
)
def test_senseless_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AudioMambaFeatureExtractor(**options)


def test_another_sampling_rate_is_an_error_with_the_way_out() -> None:
    with pytest.raises(AudioError, match=r"44100 Hz.*32000 Hz.*resample\(waveform, 44100, 32000\)"):
        AudioMambaFeatureExtractor()(clip_of(0.1), sampling_rate=44100)


def test_the_clip_itself_is_not_changed() -> None:
    clip = clip_of(0.5)
    before = clip.copy()
    for source in (clip, torch.from_numpy(clip)):
        values(AudioMambaFeatureExtractor(**SMALL, short_clips="repeat"), source)
    assert np.array_equal(clip, before)
