"""Features of a whole data set: computed once, on all cores, and kept on disk between runs.

A cache file is named after the content of the audio and lives in a folder named after the extractor's
settings, so it can
never be stale: another file under an old name, or another setting, is another cache file. Threads do the
work: decoding, resampling and the FFT all release the interpreter lock, and threads need neither pickling nor
a second import of torch.
"""

import errno
import hashlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_audio_mamba._optional import require
from hf_audio_mamba.data.audio_dataset import Clip, Waveform, content_digest
from hf_audio_mamba.data.augmentation import FeatureLayout, Features
from hf_audio_mamba.errors import AudioError, DataError, OutputError, UsageError
from hf_audio_mamba.features import as_waveform

logger = logging.getLogger(__name__)

# Raise when the same settings give other features, so that files of an older version are left alone.
CACHE_FORMAT = 1

# Settings that shape a batch, not the features of a clip.
_BATCH_SETTINGS = ("padding_side", "padding_value", "return_attention_mask", "processor_class")

_NAMED_IN_MESSAGES = 5


@dataclass(frozen=True)
class FeatureTable:
    """Features of the clips that could be read.

    Attributes:
        sources: One entry per kept clip: a `.npy` file, or the array itself where nothing is cached.
        lengths: Frames of each kept clip.
        kept: Index of each kept clip in the list that was given.
        skipped: Name of each clip that could not be read, and why.
        layout: Meaning of the feature bands.
        num_cached: How many were already in the cache.
    """

    sources: list[Path | Features] = field(repr=False)
    lengths: list[int] = field(repr=False)
    kept: list[int] = field(repr=False)
    skipped: list[tuple[str, str]]
    layout: FeatureLayout
    num_cached: int

    def __len__(self) -> int:
        return len(self.sources)

    def joined(self, other: "FeatureTable") -> "FeatureTable":
        """Append another table of the same features."""
        given = len(self.kept) + len(self.skipped)
        return FeatureTable(
            sources=[*self.sources, *other.sources],
            lengths=[*self.lengths, *other.lengths],
            kept=[*self.kept, *(given + index for index in other.kept)],
            skipped=[*self.skipped, *other.skipped],
            layout=self.layout,
            num_cached=self.num_cached + other.num_cached,
        )

    def load(self, index: int) -> Features:
        """Features of a kept clip, `(frames, bands)` float32.

        Raises:
            DataError: If the cache file has gone or was damaged since the table was made.
        """
        source = self.sources[index]
        if not isinstance(source, Path):
            return source
        try:
            features: Features = np.load(source, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"cannot read the cached features {source} ({error}); start again to compute them"
            ) from error
        return features


def compute_features(
    clips: Sequence[Clip],
    feature_extractor: Any,
    *,
    cache_dir: str | os.PathLike[str] | None,
    num_workers: int | None = None,
    max_corrupt_fraction: float = 0.01,
    progress: bool = True,
) -> FeatureTable:
    """Features of all clips, from the cache where they are there.

    Args:
        clips: What to read.
        feature_extractor: A `MoMambaFeatureExtractor`.
        cache_dir: Folder for the cache, made if need be; `None` keeps everything in memory.
        num_workers: Threads; by default as many as the process may use cores.
        max_corrupt_fraction: Clips that cannot be read are skipped with a warning up to this part of all, in
            [0, 1].
        progress: Show a bar on a terminal.

    Raises:
        DataError: If there are no clips, or more of them than allowed cannot be read; names the first few.
        OutputError: If the cache cannot be written, for instance because the disk is full.
    """
    if not clips:
        raise DataError("there are no clips to compute features of")
    if not 0 <= max_corrupt_fraction <= 1:
        raise UsageError(f"max_corrupt_fraction {max_corrupt_fraction} must be between 0 and 1")
    folder = None if cache_dir is None else _settings_folder(Path(cache_dir), feature_extractor)
    worker = _Worker(feature_extractor, folder, len(clips))
    results: list[_Result] = []
    bar = require("tqdm", extra="train", purpose="showing progress").tqdm
    with _threads(num_workers or _usable_cores()) as pool:
        steps = bar(
            pool.map(worker, clips),
            total=len(clips),
            desc="features",
            unit="clip",
            disable=None if progress else True,
        )
        results.extend(steps)
    skipped = [(clip.name, result.reason) for clip, result in zip(clips, results, strict=True) if result.reason]
    _report_skipped(skipped, len(clips), max_corrupt_fraction)
    kept = [index for index, result in enumerate(results) if result.source is not None]
    return FeatureTable(
        sources=[source for result in results if (source := result.source) is not None],
        lengths=[results[index].length for index in kept],
        kept=kept,
        skipped=skipped,
        layout=feature_layout(feature_extractor),
        num_cached=sum(result.cached for result in results),
    )


def feature_layout(feature_extractor: Any) -> FeatureLayout:
    """How a feature extractor lays out its features.

    Those of other libraries (Audio Spectrogram Transformer) do not tell what a decibel is in their features: silence is
    measured, and changes of level do not apply to them.
    """
    bands = _num_bands(feature_extractor)
    if not hasattr(feature_extractor, "units_per_db"):
        rate = int(feature_extractor.sampling_rate)
        silence = feature_extractor(np.zeros(rate, dtype=np.float32), sampling_rate=rate)["input_values"][0]
        floor = float(np.min(silence))
        return FeatureLayout(num_mel_bins=bands, feature_size=bands, floor=floor, ceiling=math.inf, units_per_db=0.0)
    return FeatureLayout(
        num_mel_bins=int(feature_extractor.num_mel_bins),
        feature_size=bands,
        floor=feature_extractor.floor,
        ceiling=feature_extractor.ceiling,
        units_per_db=feature_extractor.units_per_db,
        chroma_floor=feature_extractor.chroma_floor,
    )


def _num_bands(feature_extractor: Any) -> int:
    """Bands of a frame; some extractors of Transformers say 1 in `feature_size` and mean one channel of audio."""
    feature_size = int(feature_extractor.feature_size)
    return feature_size if feature_size > 1 else int(feature_extractor.num_mel_bins)


@dataclass(frozen=True)
class _Result:
    source: Path | Features | None = None
    length: int = 0
    cached: bool = False
    reason: str = ""


@dataclass(frozen=True)
class _Worker:
    """Computes or finds the features of one clip."""

    feature_extractor: Any
    folder: Path | None
    num_clips: int

    def __call__(self, clip: Clip) -> _Result:
        try:
            content = clip.content()
            path = None
            if self.folder is not None:
                path = self.folder / f"{content_digest(content, clip.sampling_rate)}.npy"
                frames = _cached_length(path, _num_bands(self.feature_extractor))
                if frames is not None:
                    return _Result(path, frames, cached=True)
            features = extract_features(self.feature_extractor, clip, content)
        except (AudioError, DataError) as error:
            return _Result(reason=str(error))
        if path is None:
            return _Result(features, len(features))
        _write_atomically(path, features, self.num_clips)
        return _Result(path, len(features))


def extract_features(feature_extractor: Any, clip: Clip, content: bytes | Waveform) -> Features:
    """Features of one clip, `(frames, bands)` float32.

    Args:
        feature_extractor: What makes them.
        clip: The clip, whose path or name messages tell.
        content: What `clip.content()` has given.

    Raises:
        AudioError: If the audio cannot be read or its features are not finite.
    """
    rate = int(feature_extractor.sampling_rate)
    # A file is read again by its path, so that messages name it.
    samples = as_waveform(
        clip.path or content, sampling_rate=rate, source_rate=clip.sampling_rate, name=repr(clip.name)
    )
    batch = feature_extractor(samples, sampling_rate=rate, padding=False)
    features = np.ascontiguousarray(batch["input_values"][0], dtype=np.float32)
    if not np.isfinite(features).all():
        raise AudioError(f"the features of {clip.name!r} are not finite")
    return features


def _usable_cores() -> int:
    # Only Linux knows of limits on this process.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _threads(num_workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads leave torch one core each, and which drops its queue when anything goes wrong."""
    torch_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(torch_threads)


def _settings_folder(cache_dir: Path, feature_extractor: Any) -> Path:
    settings = {key: value for key, value in feature_extractor.to_dict().items() if key not in _BATCH_SETTINGS}
    text = json.dumps({"cache_format": CACHE_FORMAT, **settings}, sort_keys=True, default=str)
    folder = cache_dir / hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the feature cache {folder}: {error.strerror or error}") from error
    return folder


def _cached_length(path: Path, feature_size: int) -> int | None:
    """Frames in a cache file, from its header; `None` if it is absent or not a whole feature array."""
    try:
        with open(path, "rb") as stream:
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):
                return None
            shape, column_major, dtype = np.lib.format.read_array_header_1_0(stream)
            data_bytes = os.fstat(stream.fileno()).st_size - stream.tell()
    except (OSError, ValueError):
        return None
    whole = len(shape) == 2 and shape[1] == feature_size and dtype == np.float32 and not column_major
    return shape[0] if whole and shape[0] > 0 and data_bytes == shape[0] * shape[1] * 4 else None


def _write_atomically(path: Path, features: Features, num_clips: int) -> None:
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".tmp", delete=False) as stream:
            temporary = stream.name
            np.save(stream, features, allow_pickle=False)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        advice = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            total = features.nbytes * num_clips / 1e6
            advice = f". All {num_clips} clips need about {total:.0f} MB: free space or choose another folder"
        raise OutputError(
            f"cannot write {features.nbytes} bytes of features to {path}: {error.strerror or error}{advice}"
        ) from error


def _report_skipped(skipped: list[tuple[str, str]], total: int, max_fraction: float) -> None:
    if not skipped:
        return
    first = "; ".join(f"{name}: {reason}" for name, reason in skipped[:_NAMED_IN_MESSAGES])
    more = f"; and {len(skipped) - _NAMED_IN_MESSAGES} more" if len(skipped) > _NAMED_IN_MESSAGES else ""
    message = f"{len(skipped)} of {total} clips cannot be read ({first}{more})"
    if len(skipped) > max_fraction * total or len(skipped) == total:
        raise DataError(f"{message}. At most {max_fraction:.3g} of all may be skipped; repair or remove them.")
    logger.warning("%s; they are skipped", message)
