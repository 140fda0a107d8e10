"""Power spectrograms in PyTorch, time first, equal to `abs(librosa.stft(...)) ** 2`."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from transformers.audio_utils import mel_filter_bank

from hf_audio_mamba.errors import ShapeError, UsageError

# Frames transformed at a time: few enough to stay in the cache of one core, which is twice as fast as all at once.
_CHUNK_FRAMES = 128


PAD_MODES = ("constant", "reflect")
# Above any audio: a larger number in a settings file is damage, refused before its memory is asked for.
MAX_SETTING = 10_000_000


@dataclass(frozen=True)
class SpectrogramSettings:
    """Sampling rate and framing of a centred, Hann-windowed short-time Fourier transform.

    Attributes:
        sampling_rate: In Hz.
        n_fft: Transform length in samples, even; gives `n_fft // 2 + 1` bins.
        win_length: Window length in samples, at most `n_fft`; the window is centred in the transform.
        hop_length: Samples from frame to frame.
        pad_mode: What surrounds the clip for half a transform: `"constant"`, silence, or `"reflect"`, its mirror image.

    Raises:
        UsageError: If a value is out of range.
    """

    sampling_rate: int
    n_fft: int
    win_length: int
    hop_length: int
    pad_mode: str = "constant"

    def __post_init__(self) -> None:
        for name in ("sampling_rate", "n_fft", "win_length", "hop_length"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SETTING:
                raise UsageError(f"{name} must be a whole number from 1 to {MAX_SETTING}, but is {value!r}")
        if self.n_fft % 2:
            raise UsageError(f"n_fft must be even, but is {self.n_fft}")
        if self.win_length > self.n_fft:
            raise UsageError(f"win_length ({self.win_length}) must not exceed n_fft ({self.n_fft})")
        if self.pad_mode not in PAD_MODES:
            raise UsageError(f"pad_mode must be one of {', '.join(PAD_MODES)}, but is {self.pad_mode!r}")

    @property
    def num_bins(self) -> int:
        """Frequency bins from 0 Hz to half the sampling rate."""
        return self.n_fft // 2 + 1

    def num_frames(self, num_samples: int) -> int:
        """Frames of a clip of `num_samples` samples; frame t is centred on sample `t * hop_length`."""
        return 1 + num_samples // self.hop_length


def check_waveform(waveform: torch.Tensor) -> None:
    """Refuse tensors that are not `(samples,)` or `(batch, samples)`, empty, or neither float32 nor float64.

    Raises:
        ShapeError: With shape and dtype.
    """
    if waveform.ndim not in (1, 2) or waveform.numel() == 0 or waveform.dtype not in (torch.float32, torch.float64):
        raise ShapeError(
            "waveform must be a float32 or float64 tensor (samples,) or (batch, samples), "
            f"but is {waveform.dtype} {tuple(waveform.shape)}"
        )


def power_chunks(waveform: torch.Tensor, settings: SpectrogramSettings) -> Iterator[torch.Tensor]:
    """Compute the power spectrogram of one clip a few frames at a time.

    The clip is padded by `n_fft // 2` samples on both sides (librosa's `center=True`).

    Args:
        waveform: `(samples,)`, float32 or float64, on any device.
        settings: Framing.

    Yields:
        Successive `(frames, bins)` pieces, squared magnitude.
    """
    left, right = clip_edges(waveform, settings)
    frames = torch.cat([left, waveform, right]).unfold(0, settings.n_fft, settings.hop_length)
    window = _window(settings, waveform.dtype, waveform.device)
    for start in range(0, frames.shape[0], _CHUNK_FRAMES):
        spectrum = torch.fft.rfft(frames[start : start + _CHUNK_FRAMES] * window)
        real, imaginary = spectrum.real, spectrum.imag
        # Not abs() ** 2, whose square root costs as much as the transform.
        yield torch.addcmul(real * real, imaginary, imaginary)


def clip_edges(waveform: torch.Tensor, settings: SpectrogramSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """What stands for half a transform before and after a clip.

    Args:
        waveform: `(samples,)`.
        settings: Framing.

    Returns:
        Two tensors `(n_fft // 2,)`: silence, or the clip mirrored at its first and at its last sample, as often as it
        takes to fill them.
    """
    half, samples = settings.n_fft // 2, waveform.shape[0]
    if settings.pad_mode == "constant":
        silence = waveform.new_zeros(half)
        return silence, silence
    period = max(1, 2 * (samples - 1))
    steps = torch.arange(1, half + 1, device=waveform.device)
    before, after = -steps.flip(0) % period, (steps + samples - 1) % period
    return waveform[torch.minimum(before, period - before)], waveform[torch.minimum(after, period - after)]


def hann_window(settings: SpectrogramSettings) -> torch.Tensor:
    """Periodic Hann window of `win_length` samples, centred in `(n_fft,)`, float64."""
    window = torch.hann_window(settings.win_length, dtype=torch.float64)
    left = (settings.n_fft - settings.win_length) // 2
    return torch.nn.functional.pad(window, (left, settings.n_fft - settings.win_length - left))


def mel_filters(
    settings: SpectrogramSettings, num_mel_bins: int, f_min: float = 0.0, f_max: float | None = None
) -> npt.NDArray[np.float64]:
    """Triangular filters `(bins, bands)`, Slaney scale and area, from `f_min` to `f_max` Hz.

    `f_max` None is half the sampling rate.
    """
    filters: npt.NDArray[np.float64] = mel_filter_bank(
        num_frequency_bins=settings.num_bins,
        num_mel_filters=num_mel_bins,
        min_frequency=f_min,
        max_frequency=settings.sampling_rate / 2 if f_max is None else f_max,
        sampling_rate=settings.sampling_rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return filters


@lru_cache(maxsize=8)
def _window(settings: SpectrogramSettings, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return hann_window(settings).to(dtype=dtype, device=device)
