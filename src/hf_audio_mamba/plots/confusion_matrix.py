"""Confusion matrix of a single-label classifier, readable from 2 to about 150 classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_audio_mamba._optional import require
from hf_audio_mamba.errors import DataError
from hf_audio_mamba.plots.figure import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Above this many classes a number no longer fits its cell in legible type.
MAX_CLASSES_WITH_COUNTS = 20


def draw_confusion_matrix(
    y_true: ArrayLike, y_pred: ArrayLike, label_names: Sequence[str], *, title: str = "Confusion matrix"
) -> "Figure":
    """Draw which class was taken for which.

    The colour of a cell is its share of the clips of the true class, so that rare and common classes read
    alike; the colour scale is by square root, so that a few mistaken clips stay visible. Counts are written
    into the cells where there are at most 20 classes. A class without clips has a grey row.

    Args:
        y_true: True class indices `(clips,)`.
        y_pred: Predicted class indices `(clips,)`.
        label_names: Name of each class, in the order of the indices.
        title: Heading; the number of clips and the accuracy are added.

    Raises:
        DataError: If there are no clips, the lengths differ or an index has no name.
        MissingExtraError: If matplotlib is not installed.
    """
    counts = _count_pairs(y_true, y_pred, len(label_names))
    clips = int(counts.sum())
    row_sums = counts.sum(axis=1, keepdims=True)
    shares = np.ma.masked_array(counts / np.maximum(row_sums, 1), mask=np.broadcast_to(row_sums == 0, counts.shape))

    classes = len(label_names)
    side = min(max(4.0, 0.5 * classes) if classes <= MAX_CLASSES_WITH_COUNTS else 3.0 + 0.14 * classes, 26.0)
    figure = new_figure(side + 1.8, side + 1.0, purpose="drawing a confusion matrix")
    axes = figure.subplots()
    axes.set_facecolor("0.88")
    colors = require("matplotlib.colors", extra="viz", purpose="drawing a confusion matrix")
    norm = colors.PowerNorm(0.5, vmin=0.0, vmax=1.0)
    image = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=30, pad=0.02, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.set_label("share of the clips of the true class")
    _label_classes(axes, label_names, some_empty=bool((row_sums == 0).any()))
    if classes <= MAX_CLASSES_WITH_COUNTS:
        _write_counts(axes, counts, shares)
    axes.set_title(f"{title}: {clips} clips, accuracy {np.trace(counts) / clips:.3f}")
    return figure


def save_confusion_matrix(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    label_names: Sequence[str],
    path: str | Path,
    *,
    title: str = "Confusion matrix",
) -> Path:
    """Write the figure of `draw_confusion_matrix` as PNG.

    Raises:
        DataError: If there are no clips, the lengths differ or an index has no name.
        OutputError: If the file cannot be written.
        MissingExtraError: If matplotlib is not installed.
    """
    return save_figure(draw_confusion_matrix(y_true, y_pred, label_names, title=title), path)


def _count_pairs(y_true: ArrayLike, y_pred: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Count clips by (true class, predicted class): `(classes, classes)`."""
    true, predicted = np.asarray(y_true), np.asarray(y_pred)
    if true.ndim != 1 or true.shape != predicted.shape:
        raise DataError(f"y_true {true.shape} and y_pred {predicted.shape} must both hold one class index per clip")
    if true.size == 0:
        raise DataError("a confusion matrix needs at least one clip")
    for name, values in (("y_true", true), ("y_pred", predicted)):
        if not np.issubdtype(values.dtype, np.integer):
            raise DataError(f"{name} must hold class indices (integers), not {values.dtype}")
        if values.min() < 0 or values.max() >= classes:
            raise DataError(f"{name} holds class {values.max()} or {values.min()}, but there are {classes} label names")
    pairs = true.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def _label_classes(axes: "Axes", label_names: Sequence[str], *, some_empty: bool) -> None:
    classes = len(label_names)
    size = 9.0 if classes <= MAX_CLASSES_WITH_COUNTS else 7.0
    positions = range(classes)
    axes.set_xticks(positions, label_names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(positions, label_names, fontsize=size, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class (grey: no clips)" if some_empty else "true class")
    # Fine lines between the cells lead the eye from a cell to its labels.
    axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.5)
    axes.tick_params(which="minor", length=0)


def _write_counts(
    axes: "Axes",
    counts: NDArray[np.int64],
    shares: "np.ma.MaskedArray[tuple[int, int], np.dtype[np.float64]]",
) -> None:
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.3 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
