"""Log mel filter banks as Kaldi computes them, equal to `torchaudio.compliance.kaldi.fbank` without torchaudio."""

import math
import warnings
from functools import lru_cache

import torch
from transformers.audio_utils import mel_filter_bank

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.features.spectrogram import MAX_SETTING, check_waveform

PREEMPHASIS = 0.97
MIN_FREQUENCY = 20.0  # Hz, lower edge of the first filter
FLOOR = 1.1920928955078125e-07  # powers below count as this: the distance from 1 to the next float32
SILENCE = math.log(FLOOR)
"""Value of a band without power: digital silence, or a filter too narrow to hold any frequency bin."""

# Frames transformed at a time: few enough to stay in the cache of one core.
_CHUNK_FRAMES = 128


class KaldiFbank:
    """Waveform to natural logarithms of mel band powers, with the defaults of Kaldi's `compute-fbank-feats`.

    Frames lie wholly within the clip (`snip_edges`). Each loses its mean, is pre-emphasised (0.97), weighed with a
    symmetric Hann window and transformed at the next power of two. Filters are triangles on Kaldi's mel scale from
    20 Hz to half the sampling rate. No dither, no energy band. At 16 kHz with 128 bands the filter of index 3 holds no
    frequency bin and stays at the floor.

    Args:
        sampling_rate: In Hz.
        win_length: Samples in a frame; 25 ms as a rule.
        hop_length: Samples from frame to frame; 10 ms as a rule.
        num_mel_bins: Mel bands.

    Raises:
        UsageError: If a setting is out of range.

    Example:
        >>> fbank = KaldiFbank()
        >>> fbank(torch.randn(16000)).shape
        torch.Size([98, 128])
    """

    def __init__(
        self, sampling_rate: int = 16000, win_length: int = 400, hop_length: int = 160, num_mel_bins: int = 128
    ) -> None:
        settings = {"sampling_rate": sampling_rate, "hop_length": hop_length, "num_mel_bins": num_mel_bins}
        for name, value, lowest in (
            *((name, value, 1) for name, value in settings.items()),
            ("win_length", win_length, 2),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= MAX_SETTING:
                raise UsageError(f"{name} must be a whole number from {lowest} to {MAX_SETTING}, but is {value!r}")
        if sampling_rate <= 2 * MIN_FREQUENCY:
            raise UsageError(f"sampling_rate must be above {2 * MIN_FREQUENCY:g} Hz, but is {sampling_rate}")
        self.sampling_rate = sampling_rate
        self.win_length = win_length
        self.hop_length = hop_length
        self.num_mel_bins = num_mel_bins

    @property
    def n_fft(self) -> int:
        """Transform length in samples: the window's, rounded up to a power of two."""
        return 1 << (self.win_length - 1).bit_length()

    def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
        """Compute filter banks.

        Computed in double precision: in single precision the rounding of a loud bin shows in quiet ones beside it, by
        up to 6e-3 in the logarithm.

        Args:
            waveform: `(samples,)` or `(batch, samples)`, float32 or float64, on any device. Less than one window is
                padded with zeros to one. Differentiable.

        Returns:
            `(frames, bands)` or `(batch, frames, bands)` in the dtype of `waveform`, at least `SILENCE`. The number of
            frames is `1 + (samples - win_length) // hop_length`, at least 1.

        Raises:
            ShapeError: If the tensor has another rank or dtype, or no samples.
        """
        check_waveform(waveform)
        if waveform.ndim == 2:
            return torch.stack([self(row) for row in waveform])
        samples = waveform.double()
        missing = self.win_length - samples.shape[-1]
        if missing > 0:
            samples = torch.nn.functional.pad(samples, (0, missing))
        frames = samples.unfold(-1, self.win_length, self.hop_length)
        chunks = [self._log_power(chunk) for chunk in torch.split(frames, _CHUNK_FRAMES)]
        return torch.cat(chunks).to(waveform.dtype)

    def _log_power(self, frames: torch.Tensor) -> torch.Tensor:
        """Filter bank `(frames, bands)` of frames `(frames, samples)`."""
        window = _window(self.win_length, frames.device)
        filters = _filters(self.sampling_rate, self.n_fft, self.num_mel_bins, frames.device)
        centred = frames - frames.mean(dim=1, keepdim=True)
        before = torch.cat((centred[:, :1], centred[:, :-1]), dim=1)
        spectrum = torch.fft.rfft(torch.sub(centred, before, alpha=PREEMPHASIS).mul_(window), n=self.n_fft)
        real, imaginary = spectrum.real, spectrum.imag
        power = torch.addcmul(real * real, imaginary, imaginary)
        return (power @ filters).clamp(min=FLOOR).log()


@lru_cache(maxsize=8)
def _window(win_length: int, device: torch.device) -> torch.Tensor:
    return torch.hann_window(win_length, periodic=False, dtype=torch.float64, device=device)


@lru_cache(maxsize=8)
def _filters(sampling_rate: int, n_fft: int, num_mel_bins: int, device: torch.device) -> torch.Tensor:
    """Triangles `(bins, bands)` with equal sides in mel, float64."""
    with warnings.catch_warnings():
        # Narrow filters without a bin are part of these features.
        warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
        bank = mel_filter_bank(
            num_frequency_bins=n_fft // 2 + 1,
            num_mel_filters=num_mel_bins,
            min_frequency=MIN_FREQUENCY,
            max_frequency=sampling_rate / 2,
            sampling_rate=sampling_rate,
            norm=None,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
    return torch.from_numpy(bank).to(device)
