"""Small recordings and a small feature extractor."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_audio_mamba.models.momamba import MoMambaFeatureExtractor

RATE = 8000

ToneWriter = Callable[..., Path]
TableWriter = Callable[..., Path]


@pytest.fixture
def write_tone() -> ToneWriter:
    """Writes a tone, different in content for every frequency, and makes the folders above it."""

    def write(path: Path, frequency_hz: float = 440.0, seconds: float = 0.2) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(int(seconds * RATE)) / RATE
        soundfile.write(path, 0.5 * np.sin(2 * np.pi * frequency_hz * time), RATE)
        return path

    return write


@pytest.fixture
def write_table(write_tone: ToneWriter) -> TableWriter:
    """Writes a CSV file from lines of cells, and a tone of its own for each file in the first column."""

    def write(path: Path, header: str, *lines: str, first_frequency_hz: float = 200.0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        for number, line in enumerate(lines):
            write_tone(path.parent / line.split(",")[0], first_frequency_hz + 10 * number)
        return path

    return write


@pytest.fixture(scope="session")
def extractor() -> MoMambaFeatureExtractor:
    """16 bands at 8 kHz, 100 frames a second."""
    return MoMambaFeatureExtractor(sampling_rate=RATE, n_fft=256, win_length=256, hop_length=80, num_mel_bins=16)
