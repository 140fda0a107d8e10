"""From whatever a caller names as a clip to the stretches of samples that a model hears."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from hf_audio_mamba.errors import AudioError
from hf_audio_mamba.features import as_waveform, audio_info, iter_windows, load_audio
from hf_audio_mamba.pipelines.remote import DEFAULT_TIMEOUT_S, downloaded, is_url
from hf_audio_mamba.pipelines.windows import Chunking, ScoredStretch, scored_stretches

MAX_WHOLE_CLIP_S = 600.0

_FILE_TYPES = (str, os.PathLike, bytes, bytearray, memoryview)


class NamedClip(NamedTuple):
    """A clip and what messages call it."""

    name: str
    audio: Any


class NamedClips:
    """Names the clips of a stream by their path or their position.

    It has no length on purpose: a torch DataLoader that learns one expects as many model inputs, but a clip may give
    many windows.
    """

    def __init__(self, clips: Iterable[Any]) -> None:
        self._clips = clips

    def __iter__(self) -> Iterator[NamedClip]:
        clips: Any = self._clips
        # By index where there is a length: data sets of torch need not be iterable nor end with an IndexError.
        items = (clips[index] for index in range(len(clips))) if hasattr(clips, "__len__") else clips
        for index, audio in enumerate(items):
            is_path = isinstance(audio, (str, os.PathLike))
            yield NamedClip(os.fsdecode(audio) if is_path else f"inputs[{index}]", audio)


def read_stretches(
    clip: NamedClip, *, sampling_rate: int, chunking: Chunking | None, timeout_s: float | None = None
) -> Iterator[ScoredStretch]:
    """Read one clip as the stretches that are scored: the whole of it, or window by window.

    Files and URLs are streamed if there are windows; arrays and decoders are in memory anyway.

    Args:
        clip: See `AudioClassificationPipeline.__call__` for what it may be.
        sampling_rate: Rate that the model needs, in Hz.
        chunking: How to cut; `None` keeps the clip whole.
        timeout_s: Limit for a download in seconds, `None` for the default.

    Yields:
        At least one stretch.

    Raises:
        AudioError: If the clip cannot be read, or is to be scored whole and is longer than `MAX_WHOLE_CLIP_S`.
    """
    with _opened(clip, sampling_rate, DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s) as source:
        if chunking is None:
            yield _whole_clip(clip.name, source, sampling_rate)
        else:
            windows = iter_windows(
                source, sampling_rate=sampling_rate, window_seconds=chunking.chunk_s, hop_seconds=chunking.hop_s
            )
            yield from scored_stretches(windows, chunking, sampling_rate=sampling_rate)


@contextmanager
def _opened(clip: NamedClip, sampling_rate: int, timeout_s: float) -> Iterator[Any]:
    """Yield a path, the bytes of a file, or mono samples at `sampling_rate`."""
    audio = _file_of_mapping(clip) if isinstance(clip.audio, Mapping) else clip.audio
    # A path in a dict comes from a data set and is never fetched: only an address that the caller passed itself is.
    if audio is clip.audio and isinstance(audio, str) and is_url(audio):
        with downloaded(audio, timeout_s=timeout_s) as path:
            try:
                yield path
            except AudioError as error:
                raise AudioError(f"{audio}: {error}") from error
    elif isinstance(audio, _FILE_TYPES):
        yield audio
    else:
        waveform = as_waveform(audio, sampling_rate=sampling_rate, name=clip.name)
        # The caller's array may be a reversed or read-only view, of which PyTorch makes no tensor.
        yield np.require(waveform, requirements=["C", "W"])


def _file_of_mapping(clip: NamedClip) -> Any:
    """Return the file in a dict of `datasets.Audio(decode=False)`; a dict with samples is returned as it is."""
    if clip.audio.get("array") is None and clip.audio.get("raw") is None:
        for key in ("bytes", "path"):
            value = clip.audio.get(key)
            if value is not None:
                if not isinstance(value, _FILE_TYPES):
                    raise AudioError(f"{key!r} of {clip.name} is of type {type(value).__name__}, not a file's {key}")
                return value
    return clip.audio


def _whole_clip(name: str, source: Any, sampling_rate: int) -> ScoredStretch:
    if isinstance(source, np.ndarray):
        _check_length(name, len(source) / sampling_rate)
        samples = source
    else:
        # The header first, to refuse in a moment what would take minutes to decode; the reader counts for itself.
        _check_length(name, audio_info(source).duration_s)
        samples, _ = load_audio(source, sampling_rate=sampling_rate, max_seconds=MAX_WHOLE_CLIP_S)
    return ScoredStretch(samples, 0.0, 0.0, len(samples) / sampling_rate, is_last=True)


def _check_length(name: str, duration_s: float) -> None:
    if duration_s > MAX_WHOLE_CLIP_S:
        raise AudioError(
            f"{name} is {duration_s:.0f} s long; clips above {MAX_WHOLE_CLIP_S:.0f} s are scored window by window "
            "only: pass chunk_length_s, the length of a window in seconds"
        )
