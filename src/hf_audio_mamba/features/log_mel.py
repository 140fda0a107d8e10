"""Log-mel spectrograms equal to librosa's `power_to_db(melspectrogram(...), ...)`.

On the CPU a compiled kernel computes them where the transform length suits it (`mel_kernel`), and PyTorch's batched
FFT everywhere else; both agree within rounding.
"""

import math
from functools import lru_cache
from typing import Any

import torch

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.features.spectrogram import SpectrogramSettings, check_waveform, mel_filters, power_chunks

AMIN = 1e-10  # librosa.power_to_db: powers below count as this
# Mel bands multiplied at a time. Each filter covers a narrow stretch of bins: a few bands need only a part of the
# matrix, which takes a seventh of the multiplications of the whole.
_BAND_BLOCK = 16

_FilterBlocks = tuple[tuple[slice, torch.Tensor], ...]


class LogMel:
    """Waveform to log-mel spectrogram in dB.

    Hann window, Slaney mel scale and area normalisation, power 2: librosa's defaults. Powers below 1e-10 count as that.
    By default levels are relative to the clip's loudest value: the largest is 0 dB, those below `-top_db` are raised to
    it, and silence is 0 dB throughout, as in librosa: its reference is as quiet as its content.

    Args:
        sampling_rate: In Hz.
        n_fft: Transform length in samples, even.
        win_length: Window length in samples.
        hop_length: Samples from frame to frame.
        num_mel_bins: Mel bands.
        top_db: Dynamic range kept below the clip's loudest value, in dB; None keeps all.
        f_min: Lower edge of the lowest band in Hz.
        f_max: Upper edge of the highest band in Hz; None means half the sampling rate.
        reference: Power of 0 dB; None means that of the clip's loudest value.
        pad_mode: What surrounds the clip for half a transform: `"constant"`, silence, or `"reflect"`, its mirror image.

    Raises:
        UsageError: If a setting is out of range.

    Example:
        >>> log_mel = LogMel()
        >>> log_mel(torch.randn(44100)).shape
        torch.Size([101, 128])
    """

    def __init__(
        self,
        sampling_rate: int = 44100,
        n_fft: int = 2646,
        win_length: int = 2646,
        hop_length: int = 441,
        num_mel_bins: int = 128,
        top_db: float | None = 80.0,
        *,
        f_min: float = 0.0,
        f_max: float | None = None,
        reference: float | None = None,
        pad_mode: str = "constant",
    ) -> None:
        self.settings = SpectrogramSettings(sampling_rate, n_fft, win_length, hop_length, pad_mode)
        if isinstance(num_mel_bins, bool) or not isinstance(num_mel_bins, int) or num_mel_bins < 1:
            raise UsageError(f"num_mel_bins must be a positive whole number, but is {num_mel_bins!r}")
        if top_db is not None and not (_is_number(top_db) and 0 < top_db < 1000):
            raise UsageError(f"top_db must be a number of dB above 0 and below 1000, or None, but is {top_db!r}")
        if reference is not None and not (_is_number(reference) and 0 < reference < math.inf):
            raise UsageError(f"reference must be a power above 0, or None, but is {reference!r}")
        self.num_mel_bins = num_mel_bins
        self.top_db = None if top_db is None else float(top_db)
        self.reference = reference
        self.f_min, self.f_max = _checked_range(f_min, f_max, sampling_rate)

    def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
        """Compute log-mel spectrograms.

        Args:
            waveform: `(samples,)` or `(batch, samples)`, float32 or float64, on any device. A row gives the same
                values alone and in any batch. Differentiable.

        Returns:
            `(frames, bands)` or `(batch, frames, bands)` in dB, by default within [-top_db, 0]. The number of frames
            is `1 + samples // hop_length`.

        Raises:
            ShapeError: If the tensor has another rank or dtype, or no samples.
        """
        check_waveform(waveform)
        if waveform.ndim == 2:
            return torch.stack([self(row) for row in waveform])
        mel = self._compiled_mel_power(waveform)
        if mel is None:
            mel = torch.cat([self._mel_power(power) for power in power_chunks(waveform, self.settings)])
        return self._to_db(mel)

    def _compiled_mel_power(self, waveform: torch.Tensor) -> torch.Tensor | None:
        """The numba kernel's result, or None where PyTorch has to serve."""
        if waveform.device.type != "cpu" or waveform.dtype != torch.float32 or waveform.requires_grad:
            return None
        # Imported here: numba takes half a second, and a machine where it is broken must still compute features.
        from hf_audio_mamba.ops import numba_cpu

        if numba_cpu.unavailable_reason() is not None:
            return None
        from hf_audio_mamba.features import mel_kernel

        plan = mel_kernel.plan_for(self.settings, self.num_mel_bins, self.f_min, self.f_max)
        return None if plan is None else mel_kernel.mel_power(waveform, plan)

    def _mel_power(self, power: torch.Tensor) -> torch.Tensor:
        blocks = _filter_blocks(self.settings, self.num_mel_bins, self.f_min, self.f_max, power.dtype, power.device)
        return torch.cat([power[:, bins] @ weights for bins, weights in blocks], dim=1)

    def _to_db(self, mel: torch.Tensor) -> torch.Tensor:
        db = 10 * mel.clamp(min=AMIN).log10()
        if self.reference is None:
            db = db - db.max()
            return db if self.top_db is None else db.clamp(min=-self.top_db)
        db = db - 10 * math.log10(self.reference)
        return db if self.top_db is None else db.clamp(min=db.max() - self.top_db)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _checked_range(f_min: Any, f_max: Any, sampling_rate: int) -> tuple[float, float | None]:
    """Edges of the mel bands in Hz."""
    top = sampling_rate / 2
    if not (_is_number(f_min) and 0 <= f_min < top):
        raise UsageError(f"f_min must be from 0 Hz to below {top:g} Hz, half the sampling rate, but is {f_min!r}")
    if f_max is not None and not (_is_number(f_max) and f_min < f_max <= top):
        raise UsageError(f"f_max must be above f_min and up to {top:g} Hz, half the sampling rate, but is {f_max!r}")
    return float(f_min), None if f_max is None else float(f_max)


@lru_cache(maxsize=8)
def _filter_blocks(
    settings: SpectrogramSettings,
    num_mel_bins: int,
    f_min: float,
    f_max: float | None,
    dtype: torch.dtype,
    device: torch.device,
) -> _FilterBlocks:
    """Mel filters in blocks of neighbouring bands: the bins that a block touches, its weights `(bins, bands)`."""
    bank = torch.from_numpy(mel_filters(settings, num_mel_bins, f_min, f_max))
    blocks = []
    for start in range(0, num_mel_bins, _BAND_BLOCK):
        weights = bank[:, start : start + _BAND_BLOCK]
        used = weights.any(dim=1).nonzero().flatten().tolist() or [0]
        bins = slice(used[0], used[-1] + 1)
        blocks.append((bins, weights[bins].contiguous().to(dtype=dtype, device=device)))
    return tuple(blocks)
