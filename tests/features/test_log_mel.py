"""Log-mel spectrograms against librosa, by the compiled kernel and by plain PyTorch."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import torch

from hf_audio_mamba.errors import ShapeError, UsageError
from hf_audio_mamba.features import LogMel, load_audio
from hf_audio_mamba.features.samples import Float32Array
from hf_audio_mamba.features.spectrogram import SpectrogramSettings, clip_edges, mel_filters, power_chunks
from hf_audio_mamba.ops import numba_cpu
from tests.features.clips import RATE, tone

LIMIT_DB = 0.01

needs_numba = pytest.mark.skipif(numba_cpu.unavailable_reason() is not None, reason="numba does not work here")


def with_librosa(clip: Float32Array, log_mel: LogMel) -> Any:
    framing = log_mel.settings
    mel = librosa.feature.melspectrogram(
        y=clip,
        sr=framing.sampling_rate,
        n_fft=framing.n_fft,
        win_length=framing.win_length,
        hop_length=framing.hop_length,
        n_mels=log_mel.num_mel_bins,
        pad_mode=framing.pad_mode,
        fmin=log_mel.f_min,
        fmax=log_mel.f_max,
    )
    reference = np.max if log_mel.reference is None else log_mel.reference
    return librosa.power_to_db(mel, ref=reference, top_db=log_mel.top_db).T


def clips() -> dict[str, Float32Array]:
    generator = np.random.default_rng(0)
    rise = np.geomspace(50, 20000, RATE)
    return {
        "noise": generator.standard_normal(RATE).astype(np.float32),
        "tone": tone(1.0),
        "faint tone": tone(1.0) * np.float32(1e-3),
        "sweep": np.sin(2 * np.pi * np.cumsum(rise) / RATE).astype(np.float32),
        "click": np.eye(1, RATE, 12345, dtype=np.float32)[0],
        "step": np.repeat(np.float32([0, 0.9]), RATE // 2),
        "clipped, with offset": (np.clip(5 * tone(1.0), -1, 1) + 0.3).astype(np.float32),
        "half silent": np.concatenate([np.zeros(RATE // 2, np.float32), tone(0.5)]),
        "16-bit full scale": (32767 * tone(0.5)).astype(np.float32),
    }


@pytest.mark.parametrize("name", clips())
@pytest.mark.filterwarnings("ignore:n_fft=:UserWarning")
def test_generated_clips_equal_librosa(name: str) -> None:
    clip, log_mel = clips()[name], LogMel()
    expected = with_librosa(clip, log_mel)
    result = log_mel(torch.from_numpy(clip))
    assert result.shape == expected.shape == (1 + len(clip) // 441, 128)
    assert np.abs(result.numpy() - expected).max() < LIMIT_DB


def test_real_clips_equal_librosa(shared_data: Path) -> None:
    log_mel = LogMel()
    for pattern in ("philharmonia/test/*.mp3", "esc10/audio/*.ogg", "fsdd/test/*_*.*"):
        for path in sorted(shared_data.glob(pattern))[::40][:8]:
            clip, _ = load_audio(path, sampling_rate=RATE)
            difference = np.abs(log_mel(torch.from_numpy(clip)).numpy() - with_librosa(clip, log_mel))
            assert difference.max() < LIMIT_DB, path


@pytest.mark.parametrize(
    "options",
    [
        {"hop_length": 882},
        {"hop_length": 100},
        {"hop_length": 3000},
        {"win_length": 1000},
        {"num_mel_bins": 40},
        {"top_db": 30.0},
        {"n_fft": 882, "win_length": 882},
        {"n_fft": 18, "win_length": 18, "hop_length": 5, "num_mel_bins": 2},
        {"n_fft": 2048, "win_length": 2048, "hop_length": 512},
        {"n_fft": 512, "win_length": 400, "hop_length": 160, "num_mel_bins": 64, "sampling_rate": 16000},
        {"pad_mode": "reflect"},
        {"f_min": 50.0, "f_max": 14000.0},
        {"f_min": 300},
        {"reference": 1.0},
        {"reference": 1e-3, "top_db": 40.0},
        {"top_db": None},
        {"n_fft": 1024, "win_length": 1024, "pad_mode": "reflect", "reference": 1.0, "top_db": None, "f_max": 9e3},
    ],
    ids=str,
)
def test_other_settings_equal_librosa(options: dict[str, Any]) -> None:
    log_mel = LogMel(**options)
    clip = tone(0.4)
    result = log_mel(torch.from_numpy(clip))
    assert np.abs(result.numpy() - with_librosa(clip, log_mel)).max() < LIMIT_DB


@needs_numba
@pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")
@pytest.mark.parametrize("samples", [1, 2, 440, 441, 442, 2645, 2646, 3527, 3528, 7 * 441, 8 * 441, 20_000])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hop_length": 1000},
        {"n_fft": 42, "win_length": 30, "hop_length": 7},
        {"pad_mode": "reflect", "f_max": 14000.0},
    ],
    ids=str,
)
def test_the_kernel_equals_plain_pytorch_in_double_precision(samples: int, options: dict[str, Any]) -> None:
    from hf_audio_mamba.features import mel_kernel

    clip = torch.from_numpy(np.random.default_rng(samples).standard_normal(samples).astype(np.float32))
    log_mel = LogMel(num_mel_bins=16, **options)
    bands = (16, log_mel.f_min, log_mel.f_max)
    plan = mel_kernel.plan_for(log_mel.settings, *bands)
    assert plan is not None
    result = mel_kernel.mel_power(clip, plan)
    power = torch.cat(list(power_chunks(clip.double(), log_mel.settings)))
    expected = power @ torch.from_numpy(mel_filters(log_mel.settings, *bands))
    assert result.shape == expected.shape
    assert (result - expected).abs().max() < 1e-5 * expected.max()


@needs_numba
@pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")
def test_every_bin_lies_in_at_most_two_neighbouring_bands() -> None:
    from hf_audio_mamba.features.mel_kernel import _two_bands_a_bin

    for n_fft, bands in ((2646, 128), (2646, 2), (2646, 400), (42, 40)):
        filters = mel_filters(SpectrogramSettings(RATE, n_fft, n_fft, 441), bands)
        weights, first = _two_bands_a_bin(filters)
        rebuilt = np.zeros_like(filters)
        rows = np.arange(len(filters))
        rebuilt[rows, first] += weights[:, 0]
        rebuilt[rows, first + 1] += weights[:, 1]
        assert np.array_equal(rebuilt, filters)


@needs_numba
def test_threads_change_nothing() -> None:
    clip, log_mel = torch.from_numpy(tone(3.0)), LogMel()
    one = log_mel(clip)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(log_mel(clip), one)
    finally:
        torch.set_num_threads(threads)


def test_without_numba_the_same_values_come_from_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    clip, log_mel = torch.from_numpy(tone(1.0)), LogMel()
    compiled = log_mel(clip)
    monkeypatch.setattr(numba_cpu, "unavailable_reason", lambda: "not installed")
    assert (log_mel(clip) - compiled).abs().max() < 1e-3


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None
import torch
from hf_audio_mamba.features import LogMel
print(tuple(LogMel()(torch.ones(44100)).shape))
"""


def test_a_machine_without_numba_computes_features() -> None:
    finished = subprocess.run([sys.executable, "-c", WITHOUT_NUMBA], capture_output=True, text=True, timeout=300)
    assert finished.stdout.strip() == "(101, 128)", finished.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_clip_gives_the_same_values_alone_and_in_a_batch(dtype: torch.dtype) -> None:
    batch = torch.stack([torch.from_numpy(tone(0.5, seed=seed, frequency=100 + 50 * seed)) for seed in range(5)])
    batch = batch.to(dtype)
    log_mel = LogMel()
    together = log_mel(batch)
    assert together.shape == (5, 51, 128)
    for clip, expected in zip(batch, together, strict=True):
        assert torch.equal(log_mel(clip), expected)
        assert torch.equal(log_mel(clip), log_mel(clip.clone()))


@pytest.mark.parametrize("layout", ["reversed", "strided"])
def test_views_are_read_as_what_they_show(layout: str) -> None:
    clip = torch.from_numpy(tone(0.2))
    view = torch.stack([clip, clip * 2])[0] if layout == "reversed" else torch.stack([clip, clip * 0], dim=1)[:, 0]
    assert torch.equal(LogMel()(view), LogMel()(clip))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_values() -> None:
    clip = torch.from_numpy(tone(1.0))
    assert (LogMel()(clip.cuda()).cpu() - LogMel()(clip)).abs().max() < LIMIT_DB


@pytest.mark.parametrize("samples", [1, 100, 2645])
def test_a_clip_shorter_than_a_window_is_padded_with_silence(samples: int) -> None:
    clip = torch.from_numpy(tone(0.1)[:samples])
    result = LogMel()(clip)
    assert result.shape == (1 + samples // 441, 128)
    padded = LogMel()(torch.cat([clip, torch.zeros(2646)]))
    np.testing.assert_allclose(result, padded[: len(result)] - padded[: len(result)].max(), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_silence_is_flat(dtype: torch.dtype) -> None:
    assert torch.equal(LogMel()(torch.zeros(44100, dtype=dtype)), torch.zeros(101, 128, dtype=dtype))


def test_values_reach_from_minus_top_db_to_zero() -> None:
    for top_db in (30.0, 80.0):
        result = LogMel(top_db=top_db)(torch.from_numpy(clips()["half silent"]))
        assert result.max() == 0
        assert result.min() == -top_db


def test_loudness_does_not_matter() -> None:
    clip = torch.from_numpy(tone(0.5))
    for factor in (0.1, 100.0, 1e6, 1e11):
        np.testing.assert_allclose(LogMel()(clip * factor), LogMel()(clip), atol=LIMIT_DB)


def test_gradients_reach_the_waveform() -> None:
    clip = torch.from_numpy(tone(0.1)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LogMel(n_fft=42, win_length=42, num_mel_bins=4)(x[:900]), clip[:900])
    single = torch.from_numpy(tone(0.1)).requires_grad_()
    LogMel()(single).sum().backward()
    assert single.grad is not None
    assert single.grad.abs().max() > 0


def test_the_clip_itself_is_not_changed() -> None:
    clip = torch.from_numpy(tone(0.2))
    before = clip.clone()
    LogMel()(clip)
    LogMel()(clip.double())
    assert torch.equal(clip, before)


@pytest.mark.parametrize(
    "waveform",
    [
        torch.zeros(0),
        torch.zeros(2, 3, 4),
        torch.tensor(1.0),
        torch.zeros(0, 5),
        torch.zeros(5, dtype=torch.int16),
        torch.zeros(5, dtype=torch.bfloat16),
    ],
    ids=str,
)
def test_other_tensors_are_refused(waveform: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match="waveform"):
        LogMel()(waveform)


@pytest.mark.parametrize("name", ["sampling_rate", "n_fft", "win_length", "hop_length", "num_mel_bins", "top_db"])
@pytest.mark.parametrize("value", [0, -1, "441", None, True, 2646.5, float("nan")])
def test_senseless_settings_are_refused(name: str, value: Any) -> None:
    if name == "top_db":  # where 2646.5 is too many, and None a setting
        value = {None: "80", 2646.5: float("inf")}.get(value, value)
    with pytest.raises(UsageError, match=name):
        LogMel(**{name: value})


@pytest.mark.parametrize("samples", [1, 2, 3, 12, 13, 14, 30])
def test_a_clip_is_mirrored_as_often_as_it_takes(samples: int) -> None:
    clip = np.random.default_rng(samples).standard_normal(samples)
    settings = SpectrogramSettings(RATE, 26, 26, 5, "reflect")
    left, right = clip_edges(torch.from_numpy(clip), settings)
    np.testing.assert_array_equal(torch.cat([left, torch.from_numpy(clip), right]), np.pad(clip, 13, mode="reflect"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"f_min": -1.0}, "f_min"),
        ({"f_min": 22050.0}, "f_min"),
        ({"f_min": "50"}, "f_min"),
        ({"f_max": 22051.0}, "f_max"),
        ({"f_min": 500.0, "f_max": 500.0}, "f_max"),
        ({"f_max": True}, "f_max"),
        ({"reference": 0.0}, "reference"),
        ({"reference": "max"}, "reference"),
        ({"reference": float("inf")}, "reference"),
        ({"pad_mode": "wrap"}, "pad_mode"),
    ],
    ids=str,
)
def test_senseless_bands_and_references_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LogMel(**options)


def test_contradictory_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="win_length"):
        LogMel(win_length=4000)
    with pytest.raises(UsageError, match="even"):
        LogMel(n_fft=2647)


def test_denormal_input_is_not_slow(record_seconds: Callable[[Callable[[], object]], float]) -> None:
    from hf_audio_mamba.features import as_waveform

    def features(clip: Float32Array) -> Callable[[], object]:
        return lambda: LogMel()(torch.from_numpy(as_waveform(clip, sampling_rate=RATE)))

    loud = tone(5.0)
    denormal = np.full(len(loud), 1e-40, np.float32)
    assert record_seconds(features(denormal)) < 2 * record_seconds(features(loud))
