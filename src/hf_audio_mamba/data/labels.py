"""Text of a table's label columns to the label of a clip."""

import math

from hf_audio_mamba.data.audio_dataset import Label
from hf_audio_mamba.errors import DataError, UsageError

LABEL_SEPARATOR = ";"


def split_label_columns(label_column: str, problem_type: str) -> list[str]:
    """Names of the label columns: one, or for regression any number of them separated by commas.

    Raises:
        UsageError: If there is none, one is named twice, or several are named for a classification.
    """
    if problem_type != "regression":
        if not label_column:
            raise UsageError("label_column is empty")
        return [label_column]
    columns = [column.strip() for column in label_column.split(",")]
    if not all(columns) or len(set(columns)) != len(columns):
        raise UsageError(f"label_column {label_column!r} must name different columns, separated by commas")
    return columns


def parse_label(cells: list[str], problem_type: str, where: str) -> Label:
    """Label of one clip.

    Args:
        cells: Text of each label column.
        problem_type: `single_label_classification`: the text is the class. `multi_label_classification`:
            class names separated by `;`; an empty cell means that no class applies, which is a valid label.
            `regression`: one finite number in each cell.
        where: File and line, for messages.

    Raises:
        DataError: If a cell is empty or not a finite number where one is needed.
    """
    if problem_type == "multi_label_classification":
        names = (name.strip() for name in cells[0].split(LABEL_SEPARATOR))
        return tuple(dict.fromkeys(name for name in names if name))
    if any(not cell.strip() for cell in cells):
        raise DataError(f"{where}: the label is empty. Fill it in or remove the row.")
    if problem_type == "regression":
        return tuple(_number(cell, where) for cell in cells)
    return cells[0].strip()


def _number(cell: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: the label {cell!r} is not a finite number, which a regression needs")
    return value
