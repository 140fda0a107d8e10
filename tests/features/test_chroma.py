"""Chromagrams and tuning against librosa."""

from pathlib import Path

import librosa
import numpy as np
import pytest
import torch

from hf_audio_mamba.errors import ShapeError
from hf_audio_mamba.features import SpectrogramSettings, chroma_stft, load_audio
from hf_audio_mamba.features.chroma import estimate_tuning
from hf_audio_mamba.features.samples import Float32Array
from tests.features.clips import RATE, tone

SETTINGS = SpectrogramSettings(RATE, 2646, 2646, 441)
LIMIT = 1e-3


def with_librosa(clip: Float32Array, settings: SpectrogramSettings = SETTINGS) -> Float32Array:
    chroma: Float32Array = librosa.feature.chroma_stft(
        y=clip,
        sr=settings.sampling_rate,
        n_fft=settings.n_fft,
        win_length=settings.win_length,
        hop_length=settings.hop_length,
    )
    return chroma.T


def chord(cents: float = 0.0) -> Float32Array:
    """A minor triad with overtones, off from A = 440 Hz by some cents."""
    frequencies = 440 * 2 ** ((np.array([0, 3, 7]) + cents / 100) / 12)
    return sum(tone(1.0, frequency=f * k) / k for f in frequencies for k in (1, 2, 3))  # type: ignore[return-value]  # sum starts at 0


@pytest.mark.parametrize("cents", [-47, -20, 0, 13, 33, 49])
def test_a_chord_in_any_tuning_equals_librosa(cents: float) -> None:
    clip = chord(cents)
    expected_tuning = librosa.estimate_tuning(
        S=np.abs(librosa.stft(clip, n_fft=2646, hop_length=441)) ** 2, sr=RATE, bins_per_octave=12
    )
    assert estimate_tuning(torch.from_numpy(clip), SETTINGS) == pytest.approx(expected_tuning, abs=1e-9)
    assert expected_tuning == pytest.approx(cents / 100, abs=0.1)
    result = chroma_stft(torch.from_numpy(clip), SETTINGS)
    assert result.shape == (101, 12)
    np.testing.assert_allclose(result, with_librosa(clip), atol=LIMIT)


@pytest.mark.parametrize(("note", "frequency"), [(0, 261.63), (4, 329.63), (9, 440.0), (11, 493.88)])
def test_a_note_lights_up_its_pitch_class(note: int, frequency: float) -> None:
    chroma = chroma_stft(torch.from_numpy(tone(0.5, frequency=frequency)), SETTINGS)
    assert (chroma.argmax(dim=1) == note).all()
    assert (chroma.max(dim=1).values == 1).all()


@pytest.mark.filterwarnings("ignore:n_fft=:UserWarning")
def test_noise_and_short_clips_equal_librosa() -> None:
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    for clip in (noise, noise[:3000], noise[:500]):
        expected = with_librosa(clip)
        np.testing.assert_allclose(chroma_stft(torch.from_numpy(clip), SETTINGS), expected, atol=LIMIT)


def test_other_framing_equals_librosa() -> None:
    settings = SpectrogramSettings(22050, 2048, 2048, 512)
    clip = chord()
    np.testing.assert_allclose(chroma_stft(torch.from_numpy(clip), settings), with_librosa(clip, settings), atol=LIMIT)


def test_a_rate_without_room_for_peaks_gives_the_standard_tuning() -> None:
    settings = SpectrogramSettings(1000, 2, 2, 1)
    assert estimate_tuning(torch.from_numpy(tone(0.1)), settings) == 0


def test_real_clips_equal_librosa(shared_data: Path) -> None:
    for pattern in ("philharmonia/test/*.mp3", "esc10/audio/*.ogg", "fsdd/test/*_*.*"):
        for path in sorted(shared_data.glob(pattern))[::50][:5]:
            clip, _ = load_audio(path, sampling_rate=RATE)
            result = chroma_stft(torch.from_numpy(clip), SETTINGS)
            np.testing.assert_allclose(result, with_librosa(clip), atol=LIMIT, err_msg=str(path))


def test_silence_is_zero() -> None:
    assert torch.equal(chroma_stft(torch.zeros(4410), SETTINGS), torch.zeros(11, 12))
    half = torch.cat([torch.zeros(RATE), torch.from_numpy(tone(1.0))])
    chroma = chroma_stft(half, SETTINGS)
    assert (chroma[:90] == 0).all()
    assert (chroma[110:].max(dim=1).values == 1).all()


def test_a_clip_gives_the_same_values_alone_and_in_a_batch() -> None:
    batch = torch.from_numpy(np.stack([chord(0), chord(30)]))
    together = chroma_stft(batch, SETTINGS)
    for clip, expected in zip(batch, together, strict=True):
        assert torch.equal(chroma_stft(clip, SETTINGS), expected)


def test_other_tensors_are_refused() -> None:
    with pytest.raises(ShapeError, match="waveform"):
        chroma_stft(torch.zeros(0), SETTINGS)
