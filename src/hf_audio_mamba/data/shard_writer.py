"""Writes a data set as shards, which `hf_audio_mamba.data.shards` reads."""

import csv
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hf_audio_mamba._optional import require
from hf_audio_mamba.data.audio_dataset import AudioDataset, Clip
from hf_audio_mamba.data.audio_folder import AUDIO_SUFFIXES
from hf_audio_mamba.data.samplers import ClassQueueSampler
from hf_audio_mamba.data.shards import LABEL_FILES
from hf_audio_mamba.errors import OutputError, UsageError

FORMATS = ("parquet", "tar")
_ROWS_PER_GROUP = 32


def write_shards(
    dataset: AudioDataset,
    folder: str | Path,
    *,
    file_format: str = "parquet",
    num_shards: int = 8,
    balance_classes: bool = False,
    seed: int = 0,
) -> dict[str, list[Path]]:
    """Write every split as shards, clips in random order, and the names of the classes as `labels.csv`.

    Audio files go in byte by byte, so nothing is decoded and a damaged file stays as it is; what has no file (rendered
    notes) is written as 16-bit WAV. One shard is written at a time, one clip at a time.

    Args:
        dataset: A classification, with one label or several.
        folder: Where to; made if need be, and empty.
        file_format: `parquet` or `tar` (WebDataset).
        num_shards: Shards of each split, at most one a clip. A multiple of the number of processes times that of
            loading workers lets each of them read shards of its own.
        balance_classes: Draw the training clips as `ClassQueueSampler` draws those of an epoch: as many clips as there
            are, every class equally often, so that some come several times and others not at all.
        seed: Of the order.

    Returns:
        The shards of each split.

    Raises:
        UsageError: If the data set is a regression, or an argument is out of range.
        DataError: If a clip's file cannot be read.
        OutputError: If the folder is not empty or cannot be written to.
    """
    if dataset.problem_type == "regression":
        raise UsageError("shards hold classes; a regression is trained from a folder or a Hub data set")
    if file_format not in FORMATS:
        raise UsageError(f"file_format {file_format!r} is none of {', '.join(FORMATS)}")
    if num_shards < 1:
        raise UsageError(f"num_shards is {num_shards}; it must be at least 1")
    target = Path(folder)
    written: dict[str, list[Path]] = {}
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise OutputError(f"{target} is not empty; shards of two data sets would mix. Choose another folder.")
        for number, (split, clips) in enumerate(dataset.splits.items()):
            if balance_classes and split == "train":
                order = np.array(list(ClassQueueSampler([dataset.encode(clip) for clip in clips], seed=seed)))
            else:
                order = np.random.default_rng((seed, number)).permutation(len(clips))
            parts = np.array_split(order, min(num_shards, len(clips)))
            for index, part in enumerate(parts):
                path = target / f"{split}-{index:05d}-of-{len(parts):05d}.{file_format}"
                _write(path, [clips[i] for i in part], file_format)
                written.setdefault(split, []).append(path)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("index", "display_name"), *enumerate(dataset.label_names)])
        (target / LABEL_FILES[0]).write_text(text.getvalue(), encoding="utf-8")
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write shards to {target}: {error.strerror or error}") from error
    return written


def _write(path: Path, clips: Sequence[Clip], file_format: str) -> None:
    """Write one shard under another name and rename it when it is whole."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        if file_format == "parquet":
            _write_parquet(partial, clips)
        else:
            _write_tar(partial, clips)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write_parquet(path: Path, clips: Sequence[Clip]) -> None:
    arrow = require("pyarrow", extra="train", purpose="writing Parquet shards")
    parquet = require("pyarrow.parquet", extra="train", purpose="writing Parquet shards")
    label = arrow.string() if isinstance(clips[0].label, str) else arrow.list_(arrow.string())
    audio = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    schema = arrow.schema([("name", arrow.string()), ("audio", audio), ("label", label)])
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, len(clips), _ROWS_PER_GROUP):
            rows = [_row(clip) for clip in clips[start : start + _ROWS_PER_GROUP]]
            writer.write_table(arrow.Table.from_pylist(rows, schema=schema))


def _row(clip: Clip) -> dict[str, Any]:
    content, suffix = _encoded(clip)
    label = clip.label if isinstance(clip.label, str) else list(clip.label)
    return {"name": clip.name, "audio": {"bytes": content, "path": f"{Path(clip.name).stem}{suffix}"}, "label": label}


def _write_tar(path: Path, clips: Sequence[Clip]) -> None:
    with tarfile.open(path, "w") as archive:
        for index, clip in enumerate(clips):
            content, suffix = _encoded(clip)
            # A dot would end the clip's name, and two folders may have files of one name.
            key = f"{index:06d}-{Path(clip.name).stem.replace('.', '_')}"
            label = clip.label if isinstance(clip.label, str) else list(clip.label)
            for name, data in (
                (f"{key}{suffix}", content),
                (f"{key}.json", json.dumps({"label": label, "name": clip.name}, ensure_ascii=False).encode()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def _encoded(clip: Clip) -> tuple[bytes, str]:
    """The file of a clip and its ending."""
    content = clip.content()
    if isinstance(content, bytes):
        suffix = Path(clip.name if clip.path is None else clip.path).suffix.lower()
        return content, suffix if suffix in AUDIO_SUFFIXES else _suffix(content)
    file = io.BytesIO()
    soundfile.write(file, content, clip.sampling_rate, format="WAV")
    return file.getvalue(), ".wav"


def _suffix(content: bytes) -> str:
    """The ending of an audio file by its first bytes; whoever reads it looks at these again."""
    known = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg"}
    return known.get(content[:4], ".mp3")
