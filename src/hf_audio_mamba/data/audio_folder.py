"""Data sets on disk in the AudioFolder layout of Hugging Face `datasets`, or listed by one CSV file."""

import csv
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from hf_audio_mamba.data.audio_dataset import AudioDataset, Clip, check_problem_type
from hf_audio_mamba.data.dataset_checks import build_audio_dataset
from hf_audio_mamba.data.labels import parse_label, split_label_columns
from hf_audio_mamba.data.splits import NO_FOLD, SPLIT_ALIASES, describe_hold_out, hold_out_validation, split_by_fold
from hf_audio_mamba.errors import DataError, UsageError

METADATA_NAME = "metadata.csv"
FILE_COLUMN = "file_name"
SPLIT_COLUMN = "split"
FOLD_COLUMN = "fold"
AUDIO_SUFFIXES = frozenset(
    {".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".rf64", ".w64", ".wav"}
)


@dataclass(frozen=True)
class _Row:
    """One line of a metadata file."""

    clip: Clip
    split: str | None
    fold: str | None


def load_audio_folder(
    data_dir: str | os.PathLike[str],
    *,
    metadata: str | os.PathLike[str] | None = None,
    label_column: str = "label",
    problem_type: str = "single_label_classification",
    fold: int | str | None = None,
    validation_fold: int | str | None = None,
    validation_fraction: float = 0.1,
    label_range: tuple[float, float] | None = None,
    unseen_labels: str = "error",
    duplicates: str = "error",
    seed: int = 0,
) -> AudioDataset:
    """Read a folder of recordings.

    The layouts, tried in this order:

    1. `metadata`: one CSV file with a `file_name` column, the label column, and a `split` or a `fold` column.
    2. `train/`, `validation/` and `test/` (the last two may be missing), each with its own `metadata.csv` or
       with one subfolder per class.
    3. `metadata.csv` in `data_dir` itself, as in 1; without a `split` or `fold` column all of it is training
       data.
    4. One subfolder per class, all of it training data.

    File names are relative to the folder of the CSV file or, failing that, to `data_dir`, and must stay
    inside. Without a validation split, a part of the training clips is held out for it; `info` of the result
    says so.

    Args:
        data_dir: The folder.
        metadata: CSV file, absolute or relative to the working directory or to `data_dir`.
        label_column: Column with the label; for regression one or several, separated by commas. Ignored for
            subfolders.
        problem_type: `single_label_classification`, `multi_label_classification` (class names separated by
            `;`, an empty cell where none applies) or `regression`.
        fold: Held-out fold of the `fold` column: the test split.
        validation_fold: Fold for validation; by default the one after `fold`, cyclic; `"none"` for no validation split.
        validation_fraction: Part of the training clips held out for validation where the data has no such
            split.
        label_range: Limits of regression targets; `AudioDataset.encode` then maps them to [0, 1].
        unseen_labels: Validation and test clips of a class that training does not have are an `error`, or
            `keep` them as certain mistakes, or `drop` them.
        duplicates: Audio that is in two splits is an `error`, or `drop` it from the earlier of the two.
        seed: Of the held-out part.

    Raises:
        DataError: If the data cannot be used; the message names the file and, for a CSV file, the line.
        UsageError: If the options contradict each other or the data.
    """
    check_problem_type(problem_type)
    root = Path(data_dir)
    if not root.is_dir():
        raise DataError(f"the data folder {root} does not exist or is not a folder")
    columns = split_label_columns(label_column, problem_type)
    info = {"source": f"folder {root.name or root}"}
    table = _find_metadata(root, metadata)
    split_folders = {} if metadata is not None else _split_folders(root)
    if (fold is not None or validation_fold is not None) and (table is None or split_folders):
        raise UsageError(f"fold needs a CSV file with a {FOLD_COLUMN!r} column; {root} has train and test folders")
    if split_folders:
        splits = {
            split: _read_split_folder(folder, root, columns, problem_type) for split, folder in split_folders.items()
        }
    elif table is not None:
        info["metadata"] = table.name
        rows = _read_metadata(table, root, columns, problem_type)
        splits = _assign_splits(rows, table, fold, validation_fold, info)
    else:
        splits = {"train": _read_class_folders(root, root, problem_type)}
    if not splits.get("validation") and splits.get("train") and validation_fold != NO_FOLD:
        splits["train"], splits["validation"] = hold_out_validation(splits["train"], validation_fraction, seed)
        info |= describe_hold_out(splits["validation"], validation_fraction, seed)
    return build_audio_dataset(
        root.resolve().name,
        splits,
        problem_type=problem_type,
        info=info,
        target_names=columns,
        label_range=label_range,
        unseen_labels=unseen_labels,
        duplicates=duplicates,
    )


def _find_metadata(root: Path, metadata: str | os.PathLike[str] | None) -> Path | None:
    if metadata is None:
        table = root / METADATA_NAME
        return table if table.is_file() else None
    for table in (Path(metadata), root / metadata):
        if table.is_file():
            return table
    raise DataError(f"the metadata file {os.fspath(metadata)} does not exist, neither here nor in {root}")


def _split_folders(root: Path) -> dict[str, Path]:
    """Split folders of a data folder by the split's name; none of them unless there is one for training."""
    found: dict[str, Path] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        split = SPLIT_ALIASES.get(folder.name.lower())
        if split is None:
            continue
        if split in found:
            raise DataError(f"{found[split]} and {folder} are both the {split} split; keep one of them")
        found[split] = folder
    return found if "train" in found else {}


def _read_split_folder(folder: Path, root: Path, columns: list[str], problem_type: str) -> list[Clip]:
    table = folder / METADATA_NAME
    if not table.is_file():
        return _read_class_folders(folder, root, problem_type)
    return [row.clip for row in _read_metadata(table, root, columns, problem_type)]


def _read_class_folders(folder: Path, root: Path, problem_type: str) -> list[Clip]:
    """Clips of a folder with a subfolder for each class; deeper folders belong to the class above them."""
    clips = []
    for class_folder in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        for path in sorted(class_folder.rglob("*")):
            if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file():
                clips.append(Clip(path.relative_to(root).as_posix(), class_folder.name, path=path))
    if not clips:
        raise DataError(f"{folder} has neither a {METADATA_NAME} nor subfolders (one per class) with audio files")
    if problem_type != "single_label_classification":
        raise DataError(f"{folder} has no {METADATA_NAME}, and subfolders cannot hold labels for {problem_type}")
    return clips


def _read_metadata(table: Path, root: Path, columns: list[str], problem_type: str) -> list[_Row]:
    """Rows of a metadata file, with every file checked to exist inside of the data folder."""
    rows: list[_Row] = []
    lines: dict[Path, int] = {}
    try:
        with open(table, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            _check_header(table, list(reader.fieldnames or []), columns)
            for cells in reader:
                row = _read_row(cells, table, root, columns, problem_type, line=reader.line_num)
                assert row.clip.path is not None
                first = lines.setdefault(row.clip.path, reader.line_num)
                if first != reader.line_num:
                    raise DataError(
                        f"{table}: {row.clip.name!r} is listed twice, in lines {first} and {reader.line_num}"
                    )
                rows.append(row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{table} is not a CSV file in UTF-8: {error}") from error
    except OSError as error:
        raise DataError(f"cannot read {table}: {error.strerror or error}") from error
    if not rows:
        raise DataError(f"{table} lists no files")
    return rows


def _check_header(table: Path, header: list[str], columns: list[str]) -> None:
    for column in (FILE_COLUMN, *columns):
        if column not in header:
            found = ", ".join(header) or "none"
            raise DataError(f"{table} has no column {column!r}; its columns are: {found}")
        if header.count(column) > 1:
            raise DataError(f"{table} has the column {column!r} twice")


def _read_row(
    cells: dict[str, str | None], table: Path, root: Path, columns: list[str], problem_type: str, *, line: int
) -> _Row:
    where = f"{table}, line {line}"
    # DictReader files surplus cells under None and fills missing ones with None: both mean a damaged line.
    if None in cells or None in cells.values():
        raise DataError(f"{where}: the number of cells differs from the header's")
    text = {column: cell or "" for column, cell in cells.items()}
    name = text[FILE_COLUMN].strip()
    path = _resolve_inside(name, table.parent, root, where)
    label = parse_label([text[column] for column in columns], problem_type, where)
    base = root if path.is_relative_to(root) else table.parent
    return _Row(
        Clip(path.relative_to(base).as_posix(), label, path=path),
        text.get(SPLIT_COLUMN),
        text.get(FOLD_COLUMN),
    )


def _resolve_inside(name: str, *args: Path | str) -> Path:
    """Path of an existing file, relative to one of two folders and inside of it."""
    *folders, where = args
    if not name:
        raise DataError(f"{where}: {FILE_COLUMN} is empty")
    normal = os.path.normpath(name)
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or PureWindowsPath(name).root
    if absolute or normal == ".." or normal.startswith(".." + os.sep):
        raise DataError(f"{where}: {name!r} leads out of the data folder; only relative paths inside of it are read")
    for folder in folders:
        # os.path.isfile, because Path.is_file raises for names that are too long.
        if os.path.isfile(candidate := os.path.join(folder, normal)):
            return Path(candidate)
    raise DataError(f"{where}: there is no file {name!r} in {' or '.join(sorted({str(f) for f in folders}))}")


def _assign_splits(
    rows: list[_Row],
    table: Path,
    fold: int | str | None,
    validation_fold: int | str | None,
    info: dict[str, str],
) -> dict[str, list[Clip]]:
    if fold is not None:
        if rows[0].fold is None:
            raise UsageError(f"fold={fold} needs a column {FOLD_COLUMN!r}, which {table} does not have")
        folds: dict[str, list[Clip]] = defaultdict(list)
        for row in rows:
            folds[(row.fold or "").strip()].append(row.clip)
        splits, info["folds"] = split_by_fold(folds, fold, validation_fold, str(table))
        return splits
    if validation_fold is not None:
        raise UsageError("validation_fold needs fold, the fold to test on")
    if rows[0].split is None:
        if rows[0].fold is not None:
            names = ", ".join(sorted({row.fold or "" for row in rows}))
            raise UsageError(f"{table} has folds: say which one to test on with fold, one of {names}")
        return {"train": [row.clip for row in rows]}
    splits = defaultdict(list)
    for row in rows:
        split = SPLIT_ALIASES.get((row.split or "").strip().lower())
        if split is None:
            raise DataError(f"{table}: {row.clip.name!r} has the split {row.split!r}, not train, validation or test")
        splits[split].append(row.clip)
    return dict(splits)
