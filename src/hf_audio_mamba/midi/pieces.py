"""Which MIDI files train and which are tested: the official splits where there are some, else one by piece.

Recordings of one piece never part: a model that has heard one performance knows the notes of the others, and windows
cut from one file even more so.
"""

import csv
import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hf_audio_mamba.errors import DataError, UsageError
from hf_audio_mamba.midi.files import MAX_BYTES, MIDI_SUFFIXES, read_bytes

SPLITS = ("train", "validation", "test")

HOW_TO_GET_DATA = (
    "Give a folder with MAESTRO (its csv and the .midi files), with a metadata.csv that has the columns file_name and "
    "split, with folders train, validation and test, or with any .mid and .midi files."
)

_METADATA = "metadata.csv"


@dataclass(frozen=True)
class Piece:
    """A MIDI file and the composition it is of.

    Attributes:
        name: Path within the data folder.
        source: Where it is, or what it holds if that is within an archive.
        composition: Files of equal composition never part.
    """

    name: str
    source: Path | bytes = field(repr=False)
    composition: str


@dataclass(frozen=True)
class PieceSplits:
    """The pieces of a data set.

    Attributes:
        name: Of the data set.
        pieces: For each of `train`, `validation` and `test` its pieces, in the order of their names.
        origin: Where the splits come from, in one clause.
    """

    name: str
    pieces: Mapping[str, list[Piece]]
    origin: str


def find_pieces(
    data_dir: str | os.PathLike[str],
    *,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> PieceSplits:
    """Find the pieces of a folder and their splits.

    Known are, in this order: MAESTRO with its csv (columns `midi_filename` and `split`); a folder with `metadata.csv`
    (columns `file_name` and `split`; `composer` and `title`, where there, must agree with the splits), whose files are
    in the folder or in the `.tar.gz` archives there (ASAP and POP909 come like this); folders `train`, `validation` and
    `test`; any folder of `.mid` and `.midi` files. In the last, files in a folder two or more levels down are
    performances of one composition, as in ASAP's composer/piece/performer.mid; other files are one each.

    Args:
        data_dir: The folder.
        validation_fraction: Part of the compositions for validation where no split is given, in [0, 1).
        test_fraction: The same for the test.
        seed: Which compositions these are.

    Raises:
        DataError: If there is no such folder, it has no pieces or an empty training split, a file is missing, or a
            composition or the content of a file is in two splits.
        UsageError: If the fractions are out of range.
    """
    if min(validation_fraction, test_fraction) < 0 or validation_fraction + test_fraction >= 1:
        raise UsageError("validation_fraction and test_fraction must be 0 or more, and below 1 together.")
    folder = Path(data_dir)
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. {HOW_TO_GET_DATA}")
    maestro = [path for path in sorted(folder.glob("*.csv")) if {"midi_filename", "split"} <= _columns(path)]
    if maestro:
        found = _from_maestro(folder, maestro[-1])
    elif (folder / _METADATA).is_file() and {"file_name", "split"} <= _columns(folder / _METADATA):
        found = _from_table(folder)
    elif any((folder / split).is_dir() for split in SPLITS):
        found = _from_split_folders(folder)
    else:
        found = _from_any_folder(folder, {"validation": validation_fraction, "test": test_fraction}, seed)
    _check(found, folder)
    return found


def _from_maestro(folder: Path, table: Path) -> PieceSplits:
    rows = _rows(table)
    by_split: dict[str, list[Piece]] = {split: [] for split in SPLITS}
    for row in rows:
        composition = f"{row.get('canonical_composer')}: {row.get('canonical_title')}"
        path = _inside(folder, row["midi_filename"], table)
        if not path.is_file():
            raise DataError(f"{table} names {row['midi_filename']}, which is not in {folder}. Unpack all of MAESTRO.")
        _split_of(row, by_split, table).append(Piece(row["midi_filename"], path, composition))
    return PieceSplits(table.stem, _ordered(by_split), f"the official splits in {table.name}")


def _from_table(folder: Path) -> PieceSplits:
    table = folder / _METADATA
    rows = _rows(table)
    loose = {row["file_name"]: _inside(folder, row["file_name"], table) for row in rows}
    packed = _unpack(folder, {name for name, path in loose.items() if not path.is_file()})
    by_split: dict[str, list[Piece]] = {split: [] for split in SPLITS}
    for row in rows:
        name = row["file_name"]
        source = loose[name] if loose[name].is_file() else packed.get(name)
        if source is None:
            raise DataError(f"{table} names {name}, which is neither in {folder} nor in an archive (.tar.gz) there.")
        named = row.get("composer") and row.get("title")
        composition = f"{row['composer']}: {row['title']}" if named else name
        _split_of(row, by_split, table).append(Piece(name, source, composition))
    return PieceSplits(folder.resolve().name, _ordered(by_split), f"the column split of {_METADATA}")


def _from_split_folders(folder: Path) -> PieceSplits:
    by_split = {split: list(_files_of(folder / split, folder)) for split in SPLITS}
    return PieceSplits(folder.resolve().name, by_split, "the folders train, validation and test")


def _from_any_folder(folder: Path, fractions: Mapping[str, float], seed: int) -> PieceSplits:
    pieces = []
    first: dict[str, str] = {}
    for piece in _files_of(folder, folder):
        # Copies under other names follow the first one.
        composition = first.setdefault(_digest(piece), piece.composition)
        pieces.append(replace(piece, composition=composition))
    names = sorted({piece.composition for piece in pieces}, key=lambda name: _hash(f"{seed}:{name}"))
    split_of = dict.fromkeys(names, "train")
    begin = 0
    for split, fraction in fractions.items():
        end = begin + round(fraction * len(names))
        split_of.update(dict.fromkeys(names[begin:end], split))
        begin = end
    by_split = {split: [piece for piece in pieces if split_of[piece.composition] == split] for split in SPLITS}
    origin = f"drawn by composition with seed {seed}"
    return PieceSplits(folder.resolve().name, by_split, origin)


def _files_of(folder: Path, root: Path) -> Iterator[Piece]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in MIDI_SUFFIXES and path.is_file():
            name = path.relative_to(root)
            deep = len(name.parts) > 2
            yield Piece(name.as_posix(), path, (name.parent if deep else name).as_posix())


def _check(found: PieceSplits, folder: Path) -> None:
    if not any(found.pieces.values()):
        raise DataError(f"{folder} holds no MIDI files. {HOW_TO_GET_DATA}")
    if not found.pieces["train"]:
        raise DataError(f"{folder} has no training pieces; its splits are {found.origin}.")
    for what, key in (("The composition", lambda piece: piece.composition), ("The content of", _digest)):
        seen: dict[str, tuple[str, str]] = {}
        for split, pieces in found.pieces.items():
            for piece in pieces:
                other, name = seen.setdefault(key(piece), (split, piece.name))
                if other != split:
                    raise DataError(
                        f"{what} {piece.name} ({split}) is in the {other} split too ({name}), so the scores would "
                        f"tell of memory. Put both into one split; these are {found.origin}."
                    )


def _digest(piece: Piece) -> str:
    content = piece.source if isinstance(piece.source, bytes) else read_bytes(piece.source)
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _columns(path: Path) -> set[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return set(next(csv.reader(stream), []))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table: {error}.") from error


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table: {error}.") from error


def _split_of(row: Mapping[str, str], by_split: dict[str, list[Piece]], table: Path) -> list[Piece]:
    if row["split"] not in by_split:
        raise DataError(f"{table} has the split {row['split']!r}; it must be one of {', '.join(SPLITS)}.")
    return by_split[row["split"]]


def _ordered(by_split: dict[str, list[Piece]]) -> dict[str, list[Piece]]:
    return {split: sorted(pieces, key=lambda piece: piece.name) for split, pieces in by_split.items()}


def _inside(folder: Path, name: str, table: Path) -> Path:
    path = folder / name
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"{table} names {name!r}, which is no path within {folder}.")
    return path


def _unpack(folder: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """Content of files in the archives of a folder, read into memory: nothing is written."""
    missing, found = set(wanted), {}
    for archive in sorted(folder.glob("*.tar.gz")) if missing else []:
        try:
            with tarfile.open(archive, "r:gz") as members:
                for member in members:
                    if member.name in missing and member.isfile() and member.size <= MAX_BYTES:
                        stream = members.extractfile(member)
                        found[member.name] = stream.read() if stream is not None else b""
        except (tarfile.TarError, OSError, EOFError) as error:
            raise DataError(f"The archive {archive} cannot be read: {error}. Fetch it again.") from error
    return found
