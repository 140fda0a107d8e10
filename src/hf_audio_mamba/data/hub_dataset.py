"""Data sets of the Hugging Face Hub, or local folders in one of its formats, read without torchcodec."""

from collections import defaultdict
from functools import partial
from typing import Any

from hf_audio_mamba._optional import require
from hf_audio_mamba.data.audio_dataset import AudioDataset, Clip, Label, check_problem_type
from hf_audio_mamba.data.dataset_checks import build_audio_dataset
from hf_audio_mamba.data.labels import parse_label, split_label_columns
from hf_audio_mamba.data.splits import NO_FOLD, describe_hold_out, hold_out_validation, split_by_fold
from hf_audio_mamba.errors import DataError, UsageError

FOLD_COLUMN = "fold"


def load_hub_dataset(
    dataset_id: str,
    *,
    config_name: str | None = None,
    revision: str | None = None,
    audio_column: str = "audio",
    label_column: str = "label",
    train_split: str = "train",
    validation_split: str | None = None,
    test_split: str | None = None,
    problem_type: str = "single_label_classification",
    fold: int | str | None = None,
    validation_fold: int | str | None = None,
    validation_fraction: float = 0.1,
    label_range: tuple[float, float] | None = None,
    unseen_labels: str = "error",
    seed: int = 0,
) -> AudioDataset:
    """Read a data set with `datasets.load_dataset`.

    Audio stays in the memory-mapped Arrow files until this package decodes it. Unlike `load_audio_folder`,
    this does not look for the same audio in two splits, which would mean reading all of it.

    Args:
        dataset_id: For example `ashraq/esc50`, or a local folder of parquet files. For folders of audio files
            there is `load_audio_folder`.
        config_name: Configuration of the data set, where it has several.
        revision: Branch, tag or commit.
        audio_column: Column of type `Audio`, or a struct with `bytes`.
        label_column: Column of class names, class numbers, or (multi-label) lists of either; for regression
            one or several columns of numbers, separated by commas.
        train_split: Split name or slice, such as `train[:80%]`.
        validation_split: As before; by default `validation` where the data set has it, else a part of the
            training clips is held out.
        test_split: As before; by default `test` where the data set has it.
        problem_type: As in `load_audio_folder`.
        fold: Held-out fold of the `fold` column of `train_split`: the test split.
        validation_fold: As in `load_audio_folder`.
        validation_fraction: Part of the training clips held out where there is no validation split.
        label_range: As in `load_audio_folder`.
        unseen_labels: As in `load_audio_folder`.
        seed: Of the held-out part.

    Raises:
        DataError: If the data set cannot be found or read, lacks a column, or its labels cannot be used.
        UsageError: If options contradict each other.
        MissingExtraError: If `datasets` is not installed.
    """
    check_problem_type(problem_type)
    if fold is not None and (validation_split or test_split):
        raise UsageError("fold chooses validation and test clips by itself; leave out validation_split and test_split")
    if validation_fold is not None and fold is None:
        raise UsageError("validation_fold needs fold, the fold to test on")
    columns = split_label_columns(label_column, problem_type)
    reader = _Reader(dataset_id, config_name, revision, audio_column, columns, problem_type)
    info = {"source": f"data set {dataset_id}" + (f", configuration {config_name}" if config_name else "")}
    if fold is not None:
        folds: dict[str, list[Clip]] = defaultdict(list)
        for name, clip in zip(reader.column(train_split, FOLD_COLUMN), reader.clips(train_split), strict=True):
            folds[str(name)].append(clip)
        splits, info["folds"] = split_by_fold(folds, fold, validation_fold, dataset_id)
    else:
        names = {"train": train_split, "validation": validation_split, "test": test_split}
        for split in ("validation", "test"):
            names[split] = names[split] or (split if split in reader.split_names else None)
        splits = {split: reader.clips(name) for split, name in names.items() if name is not None}
    if not splits.get("validation") and validation_fold != NO_FOLD:
        splits["train"], splits["validation"] = hold_out_validation(splits["train"], validation_fraction, seed)
        info |= describe_hold_out(splits["validation"], validation_fraction, seed)
    return build_audio_dataset(
        dataset_id.rstrip("/").rsplit("/", 1)[-1],
        splits,
        problem_type=problem_type,
        info=info,
        target_names=columns,
        label_range=label_range,
        unseen_labels=unseen_labels,
    )


class _Reader:
    """A data set of `datasets`, as lists of clips."""

    def __init__(
        self,
        dataset_id: str,
        config_name: str | None,
        revision: str | None,
        audio_column: str,
        label_columns: list[str],
        problem_type: str,
    ) -> None:
        self._datasets = require("datasets", extra="train", purpose="reading data sets of the Hub")
        self._id = dataset_id
        self._config_name = config_name
        self._revision = revision
        self._audio_column = audio_column
        self._label_columns = label_columns
        self._problem_type = problem_type
        self.split_names: list[str] = list(self._load(None))

    def _load(self, split: str | None) -> Any:
        try:
            return self._datasets.load_dataset(self._id, self._config_name, revision=self._revision, split=split)
        # A data set that does not exist, is private, needs a script, is damaged, or the Hub out of reach: `datasets`
        # has no common base for these.
        except (OSError, ValueError, RuntimeError, ImportError, self._datasets.exceptions.DatasetsError) as error:
            reason = str(error).rstrip(".")
            raise DataError(
                f"cannot load the data set {self._id!r}{f' [{split}]' if split else ''}: {reason}. Check its name, "
                "configuration and splits, the network (or HF_HUB_OFFLINE), and for a private one log in with "
                "`hf auth login`. A folder of audio files is read with load_audio_folder."
            ) from error

    def column(self, split: str, name: str) -> list[Any]:
        """All values of a column."""
        rows = self._load(split)
        self._require_column(rows, name)
        return list(rows.select_columns([name])[:][name])

    def clips(self, split: str) -> list[Clip]:
        """Clips of a split or slice, with their audio left on disk."""
        rows = self._load(split)
        for name in (self._audio_column, *self._label_columns):
            self._require_column(rows, name)
        audio = rows.select_columns([self._audio_column])
        feature = rows.features[self._audio_column]
        if isinstance(feature, self._datasets.Audio):
            audio = audio.cast_column(self._audio_column, self._datasets.Audio(decode=False))
        elif not (isinstance(feature, dict) and "bytes" in feature):
            raise DataError(f"the column {self._audio_column!r} of {self._id} does not hold audio files")
        labels = rows.select_columns(self._label_columns)
        clips = []
        for index, cells in enumerate(labels):
            where = f"{split}/{index:06d}"
            values = [self._name_classes(cells[name], rows.features[name]) for name in self._label_columns]
            source = partial(_read_audio, audio, index, self._audio_column, f"{self._id}, {where}")
            clips.append(Clip(where, self._label(values, f"{self._id}, {where}"), audio=source))
        return clips

    def _require_column(self, rows: Any, name: str) -> None:
        if name not in rows.column_names:
            found = ", ".join(rows.column_names)
            raise DataError(f"the data set {self._id} has no column {name!r}; its columns are: {found}")

    def _name_classes(self, value: Any, feature: Any) -> Any:
        """Class numbers to class names, also in lists; other values as they are."""
        if isinstance(value, list):
            return [self._name_classes(entry, getattr(feature, "feature", None)) for entry in value]
        if isinstance(feature, self._datasets.ClassLabel) and isinstance(value, int):
            # A negative number marks a clip without label, as in test splits of competitions.
            return feature.int2str(value) if value >= 0 else None
        return value

    def _label(self, values: list[Any], where: str) -> Label:
        if isinstance(values[0], list):
            if self._problem_type != "multi_label_classification":
                raise DataError(f"{where}: the label is a list; use problem_type='multi_label_classification'")
            return tuple(dict.fromkeys(str(value) for value in values[0]))
        cells = ["" if value is None else str(value) for value in values]
        return parse_label(cells, self._problem_type, where)


def _read_audio(rows: Any, index: int, column: str, where: str) -> bytes:
    """Encoded file of one row."""
    value = rows[index][column] or {}
    content, path = value.get("bytes"), value.get("path")
    if content is not None:
        return bytes(content)
    try:
        with open(path or "", "rb") as stream:
            return stream.read()
    except OSError as error:
        raise DataError(f"{where}: neither audio bytes nor a readable file ({path!r})") from error
