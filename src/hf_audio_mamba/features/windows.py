"""Cut audio of any length into windows while reading it, with memory that does not grow with its length."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soxr

from hf_audio_mamba.errors import AudioError
from hf_audio_mamba.features.audio_io import AudioSource, mono_blocks, open_audio
from hf_audio_mamba.features.samples import Float32Array, check_sampling_rate, check_seconds, to_mono_float32


@dataclass(frozen=True)
class AudioWindow:
    """A stretch of a longer recording.

    Attributes:
        samples: `(samples,)`, mono float32.
        start_s: Time of the first sample in seconds.
        end_s: Time after the last sample in seconds.
    """

    samples: Float32Array
    start_s: float
    end_s: float


def iter_windows(
    source: AudioSource | Float32Array, *, sampling_rate: int, window_seconds: float, hop_seconds: float
) -> Iterator[AudioWindow]:
    """Stream a recording as overlapping windows.

    Window k starts at `k * hop_seconds`. The last window is the first one that reaches the end of the
    recording, and it is as short as what is left; a recording shorter than one window gives one short window.

    Args:
        source: Path or bytes of an audio file, or samples `(samples,)` that already have `sampling_rate`.
        sampling_rate: Rate of the windows in Hz; the file is resampled on the way.
        window_seconds: Length of a window in seconds.
        hop_seconds: Distance between starts in seconds, above 0; at most `window_seconds`, so that nothing is missed.

    Yields:
        Windows in order of time. Each owns its samples.

    Raises:
        AudioError: On unusable settings, at once; or when the recording cannot be decoded, when that is met.
    """
    rate = check_sampling_rate(sampling_rate)
    window = _to_samples(window_seconds, rate, "window_seconds")
    hop = _to_samples(hop_seconds, rate, "hop_seconds")
    if hop > window:
        raise AudioError(
            f"hop_seconds ({hop_seconds:g}) is longer than window_seconds ({window_seconds:g}), "
            "which would skip audio; make it at most as long"
        )
    blocks = _array_blocks(source) if isinstance(source, np.ndarray) else _file_blocks(source, rate)
    return _cut(blocks, rate, window, hop)


def _to_samples(seconds: float, rate: int, name: str) -> int:
    samples = round(check_seconds(seconds, name) * rate)
    if samples < 1:
        raise AudioError(f"{name} is {seconds!r} s, less than one sample at {rate} Hz; make it longer")
    return samples


def _array_blocks(samples: Float32Array) -> Iterator[Float32Array]:
    yield to_mono_float32(samples)


def _file_blocks(source: AudioSource, rate: int) -> Iterator[Float32Array]:
    """Decode and resample block by block; the resampler keeps its state from block to block."""
    with open_audio(source) as file:
        if file.samplerate == rate:
            yield from mono_blocks(file, source)
            return
        stream = soxr.ResampleStream(file.samplerate, rate, 1, dtype="float32", quality="HQ")
        produced = 0
        for block in mono_blocks(file, source):
            resampled = stream.resample_chunk(np.ascontiguousarray(block))
            produced += len(resampled)
            yield resampled
        # The filter still holds the last milliseconds. A clip of a few samples can be rounded away altogether.
        rest = stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
        yield rest if produced + len(rest) else block[:1]


def _cut(blocks: Iterator[Float32Array], rate: int, window: int, hop: int) -> Iterator[AudioWindow]:
    """Collect blocks until a window is full and known not to be the last one, then step on by one hop."""
    pending = np.zeros(0, dtype=np.float32)
    start = 0
    for block in blocks:
        pending = np.concatenate((pending, block))
        offset = 0
        # Strictly more than a window: with exactly one left, the next block decides whether it is the last.
        while len(pending) - offset > window:
            samples = pending[offset : offset + window].copy()
            yield AudioWindow(samples, start / rate, (start + window) / rate)
            start += hop
            offset += hop
        pending = pending[offset:].copy()
    if len(pending):
        yield AudioWindow(pending, start / rate, (start + len(pending)) / rate)
