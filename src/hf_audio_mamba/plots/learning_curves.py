"""Loss and validation metrics over the epochs of a training run, from the log that the Trainer keeps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_audio_mamba.errors import DataError
from hf_audio_mamba.plots.figure import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What the Trainer logs of an evaluation besides its metrics.
_NOT_A_METRIC = ("loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


def draw_learning_curves(log_history: Sequence[Mapping[str, Any]], *, metrics: Sequence[str] | None = None) -> "Figure":
    """Draw training and validation loss, and the validation metrics beside them.

    Args:
        log_history: `trainer.state.log_history`: entries with `epoch` and either `loss` or `eval_loss` and
            `eval_*`.
        metrics: Validation metrics to draw, named without `eval_`; None draws all that were logged. Greater
            is taken as better when the best value is marked.

    Raises:
        DataError: If the log holds no loss, or none of a metric that was asked for.
        MissingExtraError: If matplotlib is not installed.
    """
    losses = {"training": _series(log_history, "loss"), "validation": _series(log_history, "eval_loss")}
    if not any(losses.values()):
        raise DataError("log_history holds no 'loss' and no 'eval_loss': was anything trained, with logging on?")
    names = list(metrics) if metrics is not None else _logged_metrics(log_history)
    curves = {name: _series(log_history, f"eval_{name}") for name in names}
    for name, points in curves.items():
        if not points:
            raise DataError(f"log_history holds no 'eval_{name}'; logged are: {_logged_metrics(log_history)}")

    panels = 2 if curves else 1
    figure = new_figure(5.2 * panels, 4.0, purpose="drawing learning curves")
    grid = figure.subplots(1, panels, squeeze=False)[0]
    for name, points in losses.items():
        if points:
            grid[0].plot(*zip(*points, strict=True), label=name, marker=_marker(points), markersize=4)
    grid[0].set_ylim(bottom=min(0.0, *(value for points in losses.values() for _, value in points)))
    _finish(grid[0], title="Loss", ylabel="loss")
    if curves:
        for name, points in curves.items():
            _draw_metric(grid[1], name, points)
        only = next(iter(curves)).replace("_", " ") if len(curves) == 1 else "metric"
        _finish(grid[1], title="Validation", ylabel=only)
    return figure


def save_learning_curves(
    log_history: Sequence[Mapping[str, Any]], path: str | Path, *, metrics: Sequence[str] | None = None
) -> Path:
    """Write the figure of `draw_learning_curves` as PNG.

    Raises:
        DataError: If the log holds no loss, or none of a metric that was asked for.
        OutputError: If the file cannot be written.
        MissingExtraError: If matplotlib is not installed.
    """
    return save_figure(draw_learning_curves(log_history, metrics=metrics), path)


def _series(log_history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Points (epoch, value) in the order of the epochs; of two values for one epoch the later one counts."""
    points = {float(entry["epoch"]): float(entry[key]) for entry in log_history if key in entry and "epoch" in entry}
    return sorted(points.items())


def _logged_metrics(log_history: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for entry in log_history for key in entry if key.startswith("eval_"))
    names = [key.removeprefix("eval_") for key in keys]
    return [name for name in names if name not in _NOT_A_METRIC]


def _draw_metric(axes: "Axes", name: str, points: list[tuple[float, float]]) -> None:
    epoch, best = max(points, key=lambda point: point[1])
    label = f"{name.replace('_', ' ')} (best {best:.3f} at epoch {epoch:g})"
    (line,) = axes.plot(*zip(*points, strict=True), label=label, marker=_marker(points), markersize=4)
    axes.plot(epoch, best, marker="o", markersize=9, markerfacecolor="none", color=line.get_color())


def _marker(points: list[tuple[float, float]]) -> str | None:
    """Dots for few points, so that even a single one is seen; a plain line for many."""
    return "." if len(points) <= 40 else None


def _finish(axes: "Axes", *, title: str, ylabel: str) -> None:
    axes.set(title=title, xlabel="epoch", ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
