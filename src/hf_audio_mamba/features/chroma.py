"""Chromagrams equal to `librosa.feature.chroma_stft`: energy in twelve pitch classes, the tuning estimated first.

librosa is not needed: the filter bank is that of Transformers, the tuning estimate is written out here.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from transformers.audio_utils import chroma_filter_bank

from hf_audio_mamba.features.samples import Float32Array
from hf_audio_mamba.features.spectrogram import SpectrogramSettings, check_waveform, power_chunks

NUM_CHROMA = 12
# Range and threshold of the spectral peaks that tell the tuning, as in librosa.piptrack.
_MIN_PEAK_HZ = 150.0
_MAX_PEAK_HZ = 4000.0
_PEAK_THRESHOLD = 0.1
_A0_HZ = 27.5  # four octaves below A = 440 Hz
_TUNING_EDGES = np.linspace(-0.5, 0.5, 101)  # hundredths of a semitone


def chroma_stft(waveform: torch.Tensor, settings: SpectrogramSettings) -> torch.Tensor:
    """Compute the chromagram of one or several clips.

    Args:
        waveform: `(samples,)` or `(batch, samples)`, float32 or float64, on any device; each row has its own tuning.
        settings: Framing of the spectrogram.

    Returns:
        `(frames, 12)` or `(batch, frames, 12)`, C to B, in [0, 1]; the strongest pitch class of a frame is 1,
        a silent frame is 0 throughout.

    Raises:
        ShapeError: If the tensor has another rank or dtype, or no samples.
    """
    check_waveform(waveform)
    if waveform.ndim == 2:
        return torch.stack([chroma_stft(row, settings) for row in waveform])
    # The tuning is known only after the whole clip was seen. Transforming twice is cheaper than keeping the
    # spectrogram, which is ten times as large as the result.
    filters = _chroma_filters(settings, estimate_tuning(waveform, settings))
    filters = filters.to(dtype=waveform.dtype, device=waveform.device)
    chroma = torch.cat([power @ filters for power in power_chunks(waveform, settings)])
    peak = chroma.amax(dim=1, keepdim=True)
    # A frame without energy stays 0, instead of 0 / 0.
    return chroma / torch.where(peak < torch.finfo(peak.dtype).tiny, torch.ones_like(peak), peak)


def estimate_tuning(waveform: torch.Tensor, settings: SpectrogramSettings) -> float:
    """Estimate how far a clip is tuned from A = 440 Hz.

    Spectral peaks between 150 and 4000 Hz are located by parabolic interpolation; the most frequent deviation
    from the equal-tempered scale among the stronger half of them counts (`librosa.estimate_tuning`).

    Args:
        waveform: `(samples,)`.
        settings: Framing of the spectrogram.

    Returns:
        Deviation in semitones, in [-0.5, 0.5), in hundredths; 0 if there is no peak.
    """
    peaks = [_spectral_peaks(power, settings) for power in power_chunks(waveform, settings)]
    frequencies = np.concatenate([frequency for frequency, _ in peaks])
    strengths = np.concatenate([strength for _, strength in peaks])
    if not len(frequencies):
        return 0.0
    strong = frequencies[strengths >= np.median(strengths)]
    residual = np.mod(NUM_CHROMA * np.log2(strong / _A0_HZ), 1.0)
    residual[residual >= 0.5] -= 1.0
    counts, _ = np.histogram(residual, _TUNING_EDGES)
    return float(_TUNING_EDGES[np.argmax(counts)])


def _spectral_peaks(power: torch.Tensor, settings: SpectrogramSettings) -> tuple[Float32Array, Float32Array]:
    """Frequencies in Hz and strengths of the local maxima of some frames, `(peaks,)` each."""
    bin_hz = settings.sampling_rate / settings.n_fft
    first = max(1, math.ceil(_MIN_PEAK_HZ / bin_hz))
    last = min(math.ceil(_MAX_PEAK_HZ / bin_hz), power.shape[1] - 1)  # exclusive, and not the last bin
    if last <= first:
        return np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.float32)
    floor = _PEAK_THRESHOLD * power.amax(dim=1, keepdim=True)
    loud = torch.where(power > floor, power, 0)[:, first - 1 : last + 1]
    is_peak = (loud[:, 1:-1] > loud[:, :-2]) & (loud[:, 1:-1] >= loud[:, 2:])
    frame, offset = is_peak.nonzero(as_tuple=True)
    index = offset + first
    below, here, above = (power[frame, index + step].cpu().numpy() for step in (-1, 0, 1))
    slope = (above - below) / 2
    curvature = above + below - 2 * here
    usable = np.abs(slope) < np.abs(curvature)
    shift = np.where(usable, -slope / np.where(usable, curvature, 1), 0).astype(np.float32)
    strengths = here + np.float32(0.5) * slope * shift
    frequencies = ((index.cpu().numpy() + shift) * settings.sampling_rate / settings.n_fft).astype(np.float32)
    return frequencies, strengths


@lru_cache(maxsize=128)
def _chroma_filters(settings: SpectrogramSettings, tuning: float) -> torch.Tensor:
    """Filters `(bins, 12)` in float32; there are at most a hundred tunings."""
    filters = chroma_filter_bank(
        num_frequency_bins=settings.n_fft,
        num_chroma=NUM_CHROMA,
        sampling_rate=settings.sampling_rate,
        tuning=tuning,
    )
    return torch.from_numpy(filters.astype(np.float32)).T.contiguous()
