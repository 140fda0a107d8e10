"""Kaldi's filter bank against its definition in float64 and against transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from hf_audio_mamba.errors import ShapeError, UsageError
from hf_audio_mamba.features import KaldiFbank, load_audio
from hf_audio_mamba.features.kaldi_fbank import SILENCE
from hf_audio_mamba.features.samples import Float32Array
from tests.features.clips import tone

RATE = 16000
LIMIT = 1e-3  # of a natural logarithm


def by_definition(clip: Float32Array, fbank: KaldiFbank) -> Any:
    """Kaldi's `compute-fbank-feats` (feat/feature-window.cc, feat/mel-computations.cc), in float64."""
    width, n_fft = fbank.win_length, fbank.n_fft
    count = 1 + (len(clip) - width) // fbank.hop_length
    frames = np.stack([clip[i * fbank.hop_length :][:width] for i in range(count)]).astype(np.float64)
    frames -= frames.mean(1, keepdims=True)
    frames[:, 1:] -= 0.97 * frames[:, :-1].copy()
    frames[:, 0] -= 0.97 * frames[:, 0]
    frames *= 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / (width - 1))
    turns = np.outer(np.arange(width), np.arange(n_fft // 2)) / n_fft
    power = np.abs(frames @ np.exp(-2j * np.pi * turns)) ** 2

    mel = 1127 * np.log(1 + np.arange(n_fft // 2) * fbank.sampling_rate / n_fft / 700)
    low, high = (1127 * np.log(1 + f / 700) for f in (20, fbank.sampling_rate / 2))
    step = (high - low) / (fbank.num_mel_bins + 1)
    left = low + step * np.arange(fbank.num_mel_bins)[:, None]
    filters = np.clip(np.minimum(mel - left, left + 2 * step - mel) / step, 0, None)
    return np.log(np.maximum(power @ filters.T, np.finfo(np.float32).eps))


def clips() -> dict[str, Float32Array]:
    generator = np.random.default_rng(0)
    rise = np.geomspace(30, 7500, RATE)
    return {
        "noise": generator.standard_normal(RATE).astype(np.float32),
        "tone": tone(1.0, rate=RATE),
        "pure loud tone": np.sin(0.3 * np.arange(RATE)).astype(np.float32),
        "faint tone": tone(1.0, rate=RATE) * np.float32(1e-3),
        "sweep": np.sin(2 * np.pi * np.cumsum(rise) / RATE).astype(np.float32),
        "click": np.eye(1, RATE, 5000, dtype=np.float32)[0],
        "offset": tone(1.0, rate=RATE) + np.float32(0.5),
        "half silent": np.concatenate([np.zeros(RATE // 2, np.float32), tone(0.5, rate=RATE)]),
        "16-bit full scale": (32767 * tone(0.5, rate=RATE)).astype(np.float32),
    }


@pytest.mark.parametrize("name", clips())
def test_equals_its_definition(name: str) -> None:
    clip, fbank = clips()[name], KaldiFbank()
    result = fbank(torch.from_numpy(clip))
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), by_definition(clip, fbank), atol=LIMIT)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_mel_bins": 40},
        {"sampling_rate": 44100, "win_length": 1102, "hop_length": 441, "num_mel_bins": 128},
        {"sampling_rate": 8000, "win_length": 256, "hop_length": 100, "num_mel_bins": 23},
    ],
    ids=str,
)
def test_other_settings_equal_the_definition(settings: dict[str, int]) -> None:
    fbank = KaldiFbank(**settings)
    clip = tone(0.5, rate=fbank.sampling_rate)
    np.testing.assert_allclose(fbank(torch.from_numpy(clip)).numpy(), by_definition(clip, fbank), atol=LIMIT)


@pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")
def test_equals_transformers() -> None:
    clip = tone(1.0, rate=RATE)
    filters = mel_filter_bank(
        257, 128, 20, RATE // 2, RATE, norm=None, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    expected = spectrogram(
        clip,
        window_function(400, "hann", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=filters,
        log_mel="log",
        mel_floor=np.finfo(np.float32).eps,
        remove_dc_offset=True,
    )
    np.testing.assert_allclose(KaldiFbank()(torch.from_numpy(clip)).numpy(), expected.T, atol=LIMIT)


def test_real_clips_equal_the_definition(shared_data: Path) -> None:
    for path in sorted((shared_data / "esc10" / "audio").glob("*.ogg"))[::100]:
        clip = load_audio(path, sampling_rate=RATE)[0]
        np.testing.assert_allclose(
            KaldiFbank()(torch.from_numpy(clip)).numpy(), by_definition(clip, KaldiFbank()), atol=LIMIT
        )


def test_silence_and_the_empty_filter_stay_at_the_floor(recwarn: pytest.WarningsRecorder) -> None:
    silence = KaldiFbank()(torch.zeros(RATE))
    assert silence.unique().tolist() == pytest.approx([SILENCE])
    assert pytest.approx(-15.942, abs=1e-3) == SILENCE
    noise = KaldiFbank()(torch.randn(RATE))
    assert ((noise <= SILENCE + 1e-5).all(0)).nonzero().flatten().tolist() == [3]
    assert list(recwarn) == []


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (399, 1), (400, 1), (559, 1), (560, 2), (160000, 998)])
def test_frames_lie_within_the_clip(samples: int, frames: int) -> None:
    assert KaldiFbank()(torch.ones(samples)).shape == (frames, 128)


def test_gradients_reach_the_waveform() -> None:
    clip = torch.randn(1000, dtype=torch.float64, requires_grad=True)
    fbank = KaldiFbank(sampling_rate=8000, win_length=64, hop_length=400, num_mel_bins=5)
    assert torch.autograd.gradcheck(fbank, (clip,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(({name: 0}, name) for name in ("sampling_rate", "win_length", "hop_length", "num_mel_bins")),
        *(({name: 2.5}, name) for name in ("sampling_rate", "win_length", "hop_length", "num_mel_bins")),
        ({"win_length": 1}, "win_length"),
        ({"sampling_rate": 40}, "sampling_rate"),
        ({"win_length": 10**12}, "win_length"),
    ],
    ids=str,
)
def test_senseless_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        KaldiFbank(**settings)


@pytest.mark.parametrize("shape", [(0,), (2, 3, 500), ()])
def test_unusable_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="waveform"):
        KaldiFbank()(torch.zeros(shape))


def test_integer_samples_are_refused() -> None:
    with pytest.raises(ShapeError, match="waveform must be a float32 or float64"):
        KaldiFbank()(torch.zeros(500, dtype=torch.int16))


def test_a_batch_equals_its_rows() -> None:
    batch = torch.randn(3, 2000)
    assert torch.equal(KaldiFbank()(batch), torch.stack([KaldiFbank()(row) for row in batch]))
