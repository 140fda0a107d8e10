"""Read audio files: wav, flac, ogg, mp3 and whatever else libsndfile knows, from a path or from bytes.

Files are read block by block, so that memory follows what is really decoded and never what a header claims,
and only regular files are opened: a pipe or a device would block or never end. `load_audio` returns a whole
clip; files of hours belong to `windows.iter_windows`.
"""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import soundfile

from hf_audio_mamba.errors import AudioError
from hf_audio_mamba.features.samples import Float32Array, check_sampling_rate, check_seconds, resample, to_mono_float32

AudioSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview

MAX_SAMPLES = 30 * 60 * 48_000  # half an hour at 48 kHz, 350 MB of float32
_BLOCK_VALUES = 1 << 20  # 4 MiB of float32, whatever the number of channels


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says.

    Attributes:
        sampling_rate: In Hz.
        channels: Number of channels.
        frames: Samples per channel. For mp3 without a length in its header this is an estimate, often too large.
        duration_s: Length in seconds.
    """

    sampling_rate: int
    channels: int
    frames: int
    duration_s: float


def source_name(source: AudioSource) -> str:
    """Name a source in messages: a printable path, shortened in the middle, or the number of bytes.

    Raises:
        AudioError: If it is neither path nor bytes.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"audio of {len(source)} bytes"
    if not isinstance(source, (str, os.PathLike)):
        raise AudioError(f"an audio file must be given as path or bytes, but is of type {type(source).__name__}")
    # repr, because a name that is not UTF-8 cannot be printed as it is.
    name = repr(os.fspath(source))
    return name if len(name) <= 300 else f"{name[:140]}...{name[-140:]}"


def audio_info(source: AudioSource) -> AudioInfo:
    """Read sampling rate, channels and length without decoding.

    Args:
        source: Path of a regular file, or its content as bytes.

    Raises:
        AudioError: If it cannot be opened as audio; the message names the file.
    """
    with open_audio(source) as file:
        return AudioInfo(file.samplerate, file.channels, file.frames, file.frames / file.samplerate)


def load_audio(
    source: AudioSource, *, sampling_rate: int | None = None, max_seconds: float | None = None
) -> tuple[Float32Array, int]:
    """Decode a file to mono, on request at another sampling rate.

    A file that was cut off yields the samples before the cut where its format allows that (wav, ogg, mp3:
    their headers tell no reliable length). A damaged flac file, which has checksums, is an error.

    Args:
        source: Path of a regular file, or its content as bytes.
        sampling_rate: Rate wanted, in Hz; `None` keeps the file's.
        max_seconds: Longest file accepted; `None` stands for `MAX_SAMPLES`, half an hour at 48 kHz. Longer ones
            belong to `iter_windows`.

    Returns:
        The samples `(samples,)`, float32, channels averaged, and their sampling rate in Hz.

    Raises:
        AudioError: If there is no such file, it is no audio, damaged, empty, too long, or holds NaN.
    """
    wanted = None if sampling_rate is None else check_sampling_rate(sampling_rate)
    longest = None if max_seconds is None else check_seconds(max_seconds, "max_seconds")
    with open_audio(source) as file:
        source_rate = file.samplerate
        limit = MAX_SAMPLES if longest is None else longest * source_rate
        blocks: list[Float32Array] = []
        read = 0
        for block in mono_blocks(file, source):
            blocks.append(block)
            read += len(block)
            if read > limit:
                raise AudioError(
                    f"{source_name(source)} is longer than {limit / source_rate:g} s; "
                    "score it window by window (features.iter_windows) or raise max_seconds"
                )
    samples = np.concatenate(blocks)
    del blocks
    rate = source_rate if wanted is None else wanted
    return resample(samples, source_rate, rate), rate


@contextmanager
def open_audio(source: AudioSource) -> Iterator[soundfile.SoundFile]:
    """Open a regular file or bytes with libsndfile; every failure becomes an `AudioError` that names the source.

    Raises:
        AudioError: On opening, and for decoding errors inside the `with` block.
    """
    name = source_name(source)
    handle: Any
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not len(source):
            raise AudioError(f"{name} is empty")
        handle = io.BytesIO(source)
    else:
        _check_regular_file(source, name)
        # As bytes, because soundfile cannot encode a name that is not UTF-8; Windows has no such names.
        handle = os.fspath(source) if os.name == "nt" else os.fsencode(source)
    try:
        with soundfile.SoundFile(handle) as file:
            check_sampling_rate(file.samplerate, f"the sampling rate of {name}")
            yield file
    except AudioError:
        raise
    # soundfile reports through RuntimeError (libsndfile), TypeError (headerless formats) and OSError.
    except (RuntimeError, TypeError, OSError) as error:
        reason = getattr(error, "error_string", None) or str(error)
        raise AudioError(
            f"{name} cannot be decoded: {reason.rstrip('.')}. Give an intact wav, flac, ogg or mp3 file "
            "(convert others with: ffmpeg -i INPUT OUTPUT.wav)"
        ) from error


def mono_blocks(file: soundfile.SoundFile, source: AudioSource) -> Iterator[Float32Array]:
    """Decode an open file block by block to mono float32 `(samples,)`, at the file's rate.

    Raises:
        AudioError: If there are no samples at all, or some are NaN or infinite.
    """
    name = source_name(source)
    block_length = max(1, _BLOCK_VALUES // file.channels)
    read = 0
    while True:
        block = file.read(block_length, dtype="float32", always_2d=True)
        if not len(block):
            break
        mono = block[:, 0] if file.channels == 1 else block.mean(axis=1, dtype=np.float64)
        yield to_mono_float32(mono, name=name if read == 0 else f"{name} (after sample {read})")
        read += len(block)
    if read == 0:
        raise AudioError(f"{name} holds no audio samples")


def _check_regular_file(path: str | os.PathLike[str], name: str) -> None:
    """Look before opening: pipes and devices would hang, and the messages of libsndfile name no cause."""
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        if "://" in name:
            raise AudioError(f"{name} is a URL; only local files are read, so download it first") from error
        what = "is a link to a file that does not exist" if os.path.islink(path) else "does not exist"
        raise AudioError(f"{name} {what}; check the path") from error
    # ValueError: a NUL character in the name.
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioError(f"{name} cannot be opened: {reason}") from error
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f"{name} is a folder; give one audio file")
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(f"{name} is a pipe, device or socket; only regular files are read")
    if status.st_size == 0:
        raise AudioError(f"{name} is empty (0 bytes)")
