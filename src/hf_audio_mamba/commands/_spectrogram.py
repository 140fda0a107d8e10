"""A spectrogram to look at: of a file of any length, no wider than a screen, computed while reading."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers.audio_utils import hertz_to_mel, mel_filter_bank, mel_to_hertz

from hf_audio_mamba.features import SpectrogramSettings, audio_info, iter_windows
from hf_audio_mamba.features.spectrogram import power_chunks

NUM_BANDS = 96
MAX_COLUMNS = 3000
TOP_DB = 80.0
# Frames per read of the file; 30 s at the usual hop of 10 ms.
_FRAMES_PER_WINDOW = 3000


@dataclass(frozen=True)
class DisplaySpectrogram:
    """A log-mel spectrogram for the eye.

    Attributes:
        level: `(columns, bands)` in dB relative to the loudest value of the recording, within [-80, 0].
        columns_per_second: Columns for each second of audio.
        band_frequencies: Centre of each band in Hz, `(bands,)`.
    """

    level: npt.NDArray[np.float32]
    columns_per_second: float
    band_frequencies: list[float]


def display_spectrogram(path: Path, *, sampling_rate: int) -> DisplaySpectrogram:
    """Compute the log-mel spectrogram of a file with memory that does not grow with its length.

    Windows of 40 ms every 10 ms; in long recordings neighbouring frames are averaged to at most 3,000 columns.

    Args:
        path: An audio file.
        sampling_rate: In Hz; the file is resampled to it, so it bounds the frequencies shown.

    Raises:
        AudioError: If the file cannot be read.
    """
    hop = max(1, sampling_rate // 100)
    # Twice the window's length, because at low rates the lowest mel bands are narrower than the bins of the window.
    settings = SpectrogramSettings(sampling_rate, n_fft=8 * hop, win_length=4 * hop, hop_length=hop)
    frames_per_second = sampling_rate / hop
    pool = max(1, math.ceil(audio_info(path).duration_s * frames_per_second / MAX_COLUMNS))
    bank = torch.from_numpy(_filters(settings)).float()
    # Full averages only: windows are cut to a multiple of the frames that make a column.
    frames = max(1, _FRAMES_PER_WINDOW // pool) * pool
    seconds = frames * hop / sampling_rate
    columns = []
    for window in iter_windows(path, sampling_rate=sampling_rate, window_seconds=seconds, hop_seconds=seconds):
        power = torch.cat([piece @ bank for piece in power_chunks(torch.from_numpy(window.samples), settings)])
        # Without the frame on the last sample, which would be the next window's first.
        power = power[: max(1, len(window.samples) // hop)]
        columns.append(torch.stack([piece.mean(dim=0) for piece in torch.split(power, pool)]))
    level = 10 * torch.cat(columns).clamp(min=1e-10).log10()
    level = (level - level.max()).clamp(min=-TOP_DB)
    top = hertz_to_mel(sampling_rate / 2, mel_scale="slaney")
    centres = mel_to_hertz(np.linspace(0.0, top, NUM_BANDS + 2)[1:-1], mel_scale="slaney")
    return DisplaySpectrogram(level.numpy(), frames_per_second / pool, [float(centre) for centre in centres])


def _filters(settings: SpectrogramSettings) -> npt.NDArray[np.float64]:
    """Mel filters `(bins, bands)`."""
    filters: npt.NDArray[np.float64] = mel_filter_bank(
        num_frequency_bins=settings.num_bins,
        num_mel_filters=NUM_BANDS,
        min_frequency=0.0,
        max_frequency=settings.sampling_rate / 2,
        sampling_rate=settings.sampling_rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return filters
