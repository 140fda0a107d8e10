"""Predicted against true values of a regression, one panel per output."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_audio_mamba.errors import DataError
from hf_audio_mamba.plots.figure import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_COLUMNS = 4


def draw_regression_scatter(y_true: ArrayLike, y_pred: ArrayLike, names: Sequence[str]) -> "Figure":
    """Draw predicted over true values with the line of perfect prediction and R².

    Args:
        y_true: True values `(clips, outputs)`, or `(clips,)` for one output.
        y_pred: Predicted values, shaped alike.
        names: Name of each output, with its unit if it has one.

    Raises:
        DataError: If there are no clips, shapes or names do not fit, or a value is not finite.
        MissingExtraError: If matplotlib is not installed.
    """
    true, predicted = _as_columns(y_true, "y_true"), _as_columns(y_pred, "y_pred")
    if true.shape != predicted.shape or true.shape[1] != len(names):
        raise DataError(f"y_true {true.shape}, y_pred {predicted.shape} and {len(names)} names must agree")
    columns = min(len(names), MAX_COLUMNS)
    rows = math.ceil(len(names) / columns)
    figure = new_figure(4.0 * columns, 4.2 * rows, purpose="drawing a regression scatter plot")
    grid = figure.subplots(rows, columns, squeeze=False)
    for index, axes in enumerate(grid.flat):
        if index < len(names):
            _draw_output(axes, true[:, index], predicted[:, index], names[index])
        else:
            axes.set_axis_off()
    return figure


def save_regression_scatter(y_true: ArrayLike, y_pred: ArrayLike, names: Sequence[str], path: str | Path) -> Path:
    """Write the figure of `draw_regression_scatter` as PNG.

    Raises:
        DataError: If there are no clips, shapes or names do not fit, or a value is not finite.
        OutputError: If the file cannot be written.
        MissingExtraError: If matplotlib is not installed.
    """
    return save_figure(draw_regression_scatter(y_true, y_pred, names), path)


def _as_columns(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[0] == 0:
        raise DataError(f"{name} must be (clips,) or (clips, outputs) with at least one clip, not {array.shape}")
    if not np.isfinite(array).all():
        raise DataError(f"{name} holds values that are not finite")
    return array


def _draw_output(axes: "Axes", true: NDArray[np.float64], predicted: NDArray[np.float64], name: str) -> None:
    low = min(true.min(), predicted.min())
    high = max(true.max(), predicted.max())
    margin = 0.05 * (high - low) or 0.5
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color="0.5", linewidth=1, linestyle="--", label="perfect")
    # Thousands of clips overlap; thin paint shows where they crowd.
    axes.scatter(true, predicted, s=14, alpha=min(0.8, max(0.3, 100 / len(true))), linewidths=0, color="tab:blue")
    axes.set(xlim=limits, ylim=limits, xlabel=f"true {name}", ylabel=f"predicted {name}", aspect="equal")
    axes.set_title(f"{name}: {_r2_text(true, predicted)}, {len(true)} clips")
    axes.legend(loc="upper left", frameon=False)


def _r2_text(true: NDArray[np.float64], predicted: NDArray[np.float64]) -> str:
    total = float(np.square(true - true.mean()).sum())
    if total == 0:
        return "R² undefined (all true values are equal)"
    return f"R² = {1 - float(np.square(true - predicted).sum()) / total:.3f}"
