"""Clips and files that several feature tests use."""

import io
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from hf_audio_mamba.features.samples import Float32Array
from tests.features.clips import RATE


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    """Encode samples (samples,) or (samples, channels) as a file in memory."""

    def encode(samples: Float32Array, *, format: str = "WAV", rate: int = RATE, subtype: str | None = None) -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
        return buffer.getvalue()

    return encode


@pytest.fixture
def write_file(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Write bytes under a name in a fresh folder."""

    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def record_seconds() -> Callable[[Callable[[], object]], float]:
    """Shortest of several runs of a function in seconds of this process's own time."""

    def measure(function: Callable[[], object]) -> float:
        times = []
        for _ in range(8):
            start = time.process_time()
            function()
            times.append(time.process_time() - start)
        return min(times)

    return measure
