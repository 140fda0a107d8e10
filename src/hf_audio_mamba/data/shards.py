"""Shards: files that each hold many clips with their labels, read from front to back and never as a whole.

Two formats, by the ending of the name. Parquet (`.parquet`): a column with the audio, a struct with `bytes` as Hugging
Face `datasets` writes it, a column with the label, and, if it is there, one called `name`. WebDataset (`.tar`): the
files of a clip follow each other and share their name up to its first dot; one is the audio, one a `.json` with the
label.

A folder of shards has `train-*`, `validation-*` and `test-*` files, or folders of these names, and a table of the
classes in the format of AudioSet's `class_labels_indices.csv`.
"""

import csv
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from hf_audio_mamba._optional import require
from hf_audio_mamba.data.audio_dataset import Label
from hf_audio_mamba.data.audio_folder import AUDIO_SUFFIXES
from hf_audio_mamba.data.labels import LABEL_SEPARATOR
from hf_audio_mamba.data.splits import SPLIT_ALIASES
from hf_audio_mamba.errors import DataError

SHARD_SUFFIXES = (".parquet", ".tar")
LABEL_FILES = ("labels.csv", "class_labels_indices.csv")
MAX_CLIP_BYTES = 1 << 28
"""A file in a shard that is larger than this, hours of audio, is not read into memory."""

_ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class LabelTable:
    """The classes of a data set, which a stream cannot know from its clips.

    Attributes:
        names: Display names, in the order of a model's outputs.
        aliases: Machine identifier (AudioSet's mids, such as `/m/09x0r`) to display name.
    """

    names: list[str]
    aliases: Mapping[str, str]

    def label(self, value: Any, *, multi_label: bool, where: str) -> Label:
        """The label of a clip as its shard gives it: names, mids or class numbers, several as a list or between `;`.

        Raises:
            DataError: If a class is unknown, or a single-label clip does not have exactly one.
        """
        parts = value.split(LABEL_SEPARATOR) if multi_label and isinstance(value, str) else value
        entries = [parts] if isinstance(parts, str | int) else list(parts or ())
        names = tuple(dict.fromkeys(self._name(entry, where) for entry in entries if entry != ""))
        if multi_label:
            return names
        if len(names) != 1:
            raise DataError(f"{where}: a single label is needed, but it has {len(names)}: {value!r}")
        return names[0]

    def _name(self, entry: Any, where: str) -> str:
        if isinstance(entry, int) and not isinstance(entry, bool) and 0 <= entry < len(self.names):
            return self.names[entry]
        if isinstance(entry, str):
            text = entry.strip()
            if text in self.aliases:
                return self.aliases[text]
            if text in self._known:
                return text
        raise DataError(f"{where}: the label {entry!r} is not among the {len(self.names)} classes of the label file")

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)


@dataclass(frozen=True)
class StoredClip:
    """One clip of a shard, still encoded.

    Attributes:
        name: Shard and name inside of it, for messages and prediction files.
        audio: Encoded audio file; empty where the shard has none, or one above `MAX_CLIP_BYTES`.
        label: As the shard gives it, see `LabelTable.label`.
    """

    name: str
    audio: bytes
    label: Any


def find_shards(data_dir: str | Path) -> dict[str, list[Path]]:
    """Shards of each split below a folder, sorted by name.

    Raises:
        DataError: If there is no folder, no shard for training, or shards of both formats in one split.
    """
    root = Path(data_dir)
    if not root.is_dir():
        raise DataError(f"the data folder {root} does not exist or is not a folder")
    found: dict[str, list[Path]] = {}
    for path in sorted(path for path in root.rglob("*") if path.suffix in SHARD_SUFFIXES and path.is_file()):
        folder = path.relative_to(root).parts[0] if path.parent != root else ""
        split = SPLIT_ALIASES.get(folder.lower()) or SPLIT_ALIASES.get(path.name.split("-")[0].split(".")[0].lower())
        if split is not None:
            found.setdefault(split, []).append(path)
    if "train" not in found:
        raise DataError(
            f"{root} holds no shards for training: files train-*.parquet or train-*.tar, or a folder train with such "
            "files. `hf-audio-mamba shards` makes them."
        )
    for split, paths in found.items():
        if len({path.suffix for path in paths}) > 1:
            raise DataError(f"{root}: the {split} split has Parquet and tar shards; they may hold the same clips twice")
    return {split: found[split] for split in ("train", "validation", "test") if split in found}


def read_label_table(data_dir: str | Path, label_file: str | Path | None = None) -> LabelTable:
    """The classes, from a CSV file with a `display_name` and perhaps a `mid` and an `index` column.

    Args:
        data_dir: Folder of shards, searched for `labels.csv` and `class_labels_indices.csv`.
        label_file: Another file.

    Raises:
        DataError: If there is none, or it cannot be used.
    """
    candidates = [Path(label_file)] if label_file else [Path(data_dir, name) for name in LABEL_FILES]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise DataError(
            f"the class names are missing: {' or '.join(map(str, candidates))}, a CSV file with a column display_name "
            "and perhaps mid (give it with --label_file)"
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    names = [(row.get("display_name") or "").strip() for row in rows]
    if len(names) < 2 or not all(names) or len(set(names)) != len(names):
        raise DataError(f"{path}: the column display_name must hold two or more different class names")
    if "index" in rows[0] and [row["index"] for row in rows] != [str(index) for index in range(len(rows))]:
        raise DataError(f"{path}: the column index must count from 0 without gaps")
    return LabelTable(names, {mid: name for row, name in zip(rows, names, strict=True) if (mid := row.get("mid"))})


def read_shard(path: Path, *, audio_column: str = "audio", label_column: str = "label") -> Iterator[StoredClip]:
    """Clips of a shard in their order, one after another.

    Args:
        path: The shard.
        audio_column: Parquet only: column with the audio.
        label_column: Column, or key of the `.json` files, with the label.

    Raises:
        DataError: If the shard is damaged or lacks a column.
    """
    if path.suffix == ".parquet":
        yield from _read_parquet(path, audio_column, label_column)
    else:
        yield from _read_tar(path, label_column)


def count_clips(path: Path) -> int:
    """Number of clips of a shard, without reading their audio.

    Raises:
        DataError: If the shard is damaged.
    """
    if path.suffix == ".parquet":
        return int(_open_parquet(path).metadata.num_rows)
    try:
        with tarfile.open(path) as archive:
            keys = [_key(member.name) for member in archive if member.isfile()]
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError(f"{path} is not a whole tar file: {error}") from error
    return sum(key != previous for key, previous in zip(keys, [None, *keys], strict=False))


def _open_parquet(path: Path) -> Any:
    parquet = require("pyarrow.parquet", extra="train", purpose="reading Parquet shards")
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        raise DataError(f"{path} is not a whole Parquet file: {error}") from error


def _read_parquet(path: Path, audio_column: str, label_column: str) -> Iterator[StoredClip]:
    file = _open_parquet(path)
    known = file.schema_arrow.names
    for column in (audio_column, label_column):
        if column not in known:
            raise DataError(f"{path} has no column {column!r}; its columns are: {', '.join(known)}")
    columns = [audio_column, label_column, *(["name"] if "name" in known else [])]
    number = 0
    try:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
            for row in batch.to_pylist():
                audio = row[audio_column]
                audio = audio.get("bytes") if isinstance(audio, dict) else audio
                yield StoredClip(
                    f"{path.name}/{row.get('name') or number}",
                    audio if isinstance(audio, bytes) and len(audio) <= MAX_CLIP_BYTES else b"",
                    row[label_column],
                )
                number += 1
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged after {number} clips: {error}") from error


def _key(name: str) -> str:
    """Name of a clip: that of its files up to the first dot after the folders."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".")[0] or path.name))


def _read_tar(path: Path, label_column: str) -> Iterator[StoredClip]:
    key: str | None = None
    audio, described = b"", dict[str, Any]()
    try:
        with tarfile.open(path, mode="r|") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if _key(member.name) != key:
                    if key is not None:
                        yield _described_clip(path, key, audio, described, label_column)
                    key, audio, described = _key(member.name), b"", {}
                suffix = PurePosixPath(member.name).suffix.lower()
                if suffix in AUDIO_SUFFIXES:
                    audio = _content(archive, member)
                elif suffix == ".json":
                    described = _json_object(_content(archive, member), f"{path}, {member.name}")
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError(f"{path} is damaged after the clip {key}: {error}") from error
    if key is not None:
        yield _described_clip(path, key, audio, described, label_column)


def _described_clip(path: Path, key: str, audio: bytes, described: dict[str, Any], label_column: str) -> StoredClip:
    if label_column not in described:
        found = ", ".join(described) or "nothing"
        raise DataError(f"{path}: the .json of the clip {key} has no {label_column!r}; it holds: {found}")
    return StoredClip(f"{path.name}/{described.get('name') or key}", audio, described[label_column])


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member) if member.size <= MAX_CLIP_BYTES else None
    return b"" if file is None else file.read()


def _json_object(content: bytes, where: str) -> dict[str, Any]:
    try:
        loaded = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not usable as JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise DataError(f"{where}: a JSON object is needed, not {type(loaded).__name__}")
    return loaded


def total_clips(shards: Sequence[Path]) -> int:
    """Number of clips of several shards."""
    return sum(map(count_clips, shards))
