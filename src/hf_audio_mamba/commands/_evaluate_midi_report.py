"""The results of `evaluate-midi` as tables, JSON and a figure."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_audio_mamba.errors import OutputError

STDOUT = "-"
_ABSENT = "-"


def show(content: Mapping[str, Any], target: str | None) -> None:
    """Print tables or JSON, or both tables and a JSON file.

    Args:
        content: `grid`, `models` and `music`.
        target: None for tables alone, `"-"` for JSON alone, or the file for the JSON.

    Raises:
        OutputError: If the file cannot be written; the tables have been printed by then.
    """
    text = json.dumps(_without_nan(content), indent=1, allow_nan=False)
    print(text if target == STDOUT else tables(content))
    if target is None or target == STDOUT:
        return
    try:
        Path(target).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{target}: cannot write the result ({error.strerror}); choose another file") from error


def tables(content: Mapping[str, Any]) -> str:
    """Four tables in Markdown: likelihoods, loss by position, note statistics, copies where they were looked for."""
    parts = [_likelihoods(content["models"]), _positions(content["models"]), _music(content["music"])]
    copies = _copies(content["music"])
    return "\n\n".join([*parts, copies] if copies else parts)


def plot(models: Mapping[str, Any], path: str) -> None:
    """Draw loss against position of each model.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        OutputError: If the file cannot be written.
    """
    from hf_audio_mamba.plots.figure import save_figure
    from hf_audio_mamba.plots.loss_by_position import draw_loss_by_position

    curves = {
        name: [(row["start"], row["stop"], row["nats_per_token"]) for row in entry["loss_by_position_of_long_pieces"]]
        for name, entry in models.items()
    }
    save_figure(draw_loss_by_position(curves), path)


def _likelihoods(models: Mapping[str, Any]) -> str:
    header = ("model", "parameters", "tokens", "notes", "nats/token", "bits/note", "bits/s", "context of a token")
    rows = [
        (
            name,
            f"{entry['parameters']:,}",
            f"{entry['tokens']:,}",
            f"{entry['notes']:,}",
            f"{entry['nats_per_token']:.4f}",
            f"{entry['bits_per_note']:.3f}",
            f"{entry['bits_per_second']:.2f}",
            entry["context"]["description"],
        )
        for name, entry in models.items()
    ]
    return _table(header, rows)


def _positions(models: Mapping[str, Any]) -> str:
    """Nats per token by position; models of other vocabularies have other positions, so each has its own rows."""
    rows = [
        (
            name,
            f"{row['start']}-{row['stop'] - 1}",
            f"{row['nats_per_token']:.4f}",
            f"{row['tokens']:,}",
            str(row["pieces"]),
        )
        for name, entry in models.items()
        for row in entry["loss_by_position"]
    ]
    return _table(("model", "position", "nats/token", "tokens", "pieces"), rows)


def _music(music: Mapping[str, Mapping[str, float]]) -> str:
    names = ("pitch_class", "inter_onset", "duration", "velocity")
    header = ("music", "pieces", "notes", "grammar errors", *(f"{name.replace('_', '-')} OA / KL" for name in names))
    rows = []
    for name, entry in music.items():
        pairs = [
            f"{_number(entry.get(f'{kind}_overlap'), 3)} / {_number(entry.get(f'{kind}_divergence'), 3)}"
            if f"{kind}_overlap" in entry
            else _ABSENT
            for kind in names
        ]
        errors = _number(entry["grammar_error_rate"], 5)
        rows.append((name.replace("_", "-"), str(entry["pieces"]), f"{entry['notes']:,}", errors, *pairs))
    return _table(header, rows)


def _copies(music: Mapping[str, Mapping[str, float]]) -> str:
    """Shares of n-grams that the training files have; empty where no set was compared with them."""
    compared = {name: entry for name, entry in music.items() if "pitch_longest_copy" in entry}
    if not compared:
        return ""
    columns = [key for key in next(iter(compared.values())) if "_copy" in key]
    header = ("copies of training notes", *(column.replace("_", " ") for column in columns))
    rows = [
        (name.replace("_", "-"), *(_number(entry[column], 0 if "longest" in column else 4) for column in columns))
        for name, entry in compared.items()
    ]
    return _table(header, rows)


def _number(value: float | None, digits: int) -> str:
    return _ABSENT if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return "| " + " | ".join([first, *others]) + " |"

    return "\n".join([line(header), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
