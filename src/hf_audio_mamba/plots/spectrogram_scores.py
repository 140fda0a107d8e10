"""What a classifier heard and what it said: log-mel spectrogram above, scores below."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_audio_mamba.errors import DataError
from hf_audio_mamba.plots.figure import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LABELS = 10
# More columns than any screen has pixels; an hour of audio at 100 frames a second has 360 000.
MAX_COLUMNS = 4000
FREQUENCY_TICKS = (250, 500, 1000, 2000, 4000, 8000, 16_000)


class ScoredSegment(NamedTuple):
    """Scores of one stretch of a recording.

    Attributes:
        start_s: Start in seconds.
        end_s: End in seconds.
        scores: Score of each label.
    """

    start_s: float
    end_s: float
    scores: Mapping[str, float]


def draw_spectrogram_scores(
    log_mel: ArrayLike,
    frames_per_second: float,
    scores: Mapping[str, float] | Sequence[ScoredSegment],
    *,
    title: str = "",
    band_frequencies: Sequence[float] | None = None,
) -> "Figure":
    """Draw a log-mel spectrogram with a bar chart of scores, or with a heat map of scores over time.

    At most 10 labels are shown, those with the highest (mean) scores.

    Args:
        log_mel: Level `(frames, bands)` in dB, band 0 the lowest.
        frames_per_second: Frames per second of audio, above 0.
        scores: Score of each label (bars), or segments in the order of time (heat map).
        title: Heading, for example the file's name.
        band_frequencies: Centre of each band in Hz, `(bands,)`, rising; without it the axis counts bands.

    Raises:
        DataError: If the spectrogram or the scores are empty, misshapen or not finite.
        MissingExtraError: If matplotlib is not installed.
    """
    level = _as_level(log_mel, band_frequencies)
    if not frames_per_second > 0:
        raise DataError(f"frames_per_second must be above 0, not {frames_per_second}")
    if not scores:
        raise DataError("scores is empty: give the score of each label, or scored segments")
    segments = None if isinstance(scores, Mapping) else list(scores)
    labels = _top_labels(scores if isinstance(scores, Mapping) else _mean_scores(scores))

    figure = new_figure(9.0, 3.6 + 0.9 + 0.28 * len(labels), purpose="drawing a spectrogram with scores")
    top, bottom = figure.subplots(2, 1, height_ratios=(3.6, 0.9 + 0.28 * len(labels)))
    _draw_spectrogram(top, level, frames_per_second, band_frequencies)
    if title:
        # File names may hold dollar signs, which matplotlib would set as mathematics.
        top.set_title(title, parse_math=False)
    if segments is None:
        _draw_bars(bottom, labels)
    else:
        _draw_timeline(bottom, list(labels), segments)
        # Pixels of the two panels stand for the same moments only if both axes span the same time.
        top.sharex(bottom)
        bottom.set_xlim(0.0, max(level.shape[0] / frames_per_second, segments[-1].end_s))
    return figure


def save_spectrogram_scores(
    log_mel: ArrayLike,
    frames_per_second: float,
    scores: Mapping[str, float] | Sequence[ScoredSegment],
    path: str | Path,
    *,
    title: str = "",
    band_frequencies: Sequence[float] | None = None,
) -> Path:
    """Write the figure of `draw_spectrogram_scores` as PNG.

    Raises:
        DataError: If the spectrogram or the scores are empty, misshapen or not finite.
        OutputError: If the file cannot be written.
        MissingExtraError: If matplotlib is not installed.
    """
    figure = draw_spectrogram_scores(log_mel, frames_per_second, scores, title=title, band_frequencies=band_frequencies)
    return save_figure(figure, path)


def _as_level(log_mel: ArrayLike, band_frequencies: Sequence[float] | None) -> NDArray[np.float32]:
    level = np.asarray(log_mel, dtype=np.float32)
    if level.ndim != 2 or 0 in level.shape:
        raise DataError(f"log_mel must be (frames, bands) with at least one of each, not {level.shape}")
    if not np.isfinite(level).all():
        raise DataError("log_mel holds values that are not finite")
    if band_frequencies is not None and len(band_frequencies) != level.shape[1]:
        raise DataError(f"{len(band_frequencies)} band_frequencies do not fit log_mel with {level.shape[1]} bands")
    return level


def _mean_scores(segments: Sequence[ScoredSegment]) -> dict[str, float]:
    """Mean of each label over the recording, each segment weighing as long as it lasts."""
    duration = sum(segment.end_s - segment.start_s for segment in segments)
    if duration <= 0 or any(segment.end_s <= segment.start_s for segment in segments):
        raise DataError("every scored segment must end after it starts")
    names = dict.fromkeys(name for segment in segments for name in segment.scores)
    return {name: sum(s.scores.get(name, 0.0) * (s.end_s - s.start_s) for s in segments) / duration for name in names}


def _top_labels(scores: Mapping[str, float]) -> dict[str, float]:
    if not np.isfinite(list(scores.values())).all():
        raise DataError("scores holds values that are not finite")
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    return dict(ranked[:MAX_LABELS])


def _draw_spectrogram(
    axes: "Axes",
    level: NDArray[np.float32],
    frames_per_second: float,
    band_frequencies: Sequence[float] | None,
) -> None:
    frames, bands = level.shape
    if frames > MAX_COLUMNS:
        starts = np.linspace(0, frames, MAX_COLUMNS, endpoint=False).astype(int)
        level = np.maximum.reduceat(level, starts, axis=0)
    image = axes.imshow(
        level.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        interpolation="nearest",
        extent=(0.0, frames / frames_per_second, -0.5, bands - 0.5),
    )
    axes.figure.colorbar(image, ax=axes, label="level (dB)", pad=0.01)
    axes.set_xlabel("time (s)")
    if band_frequencies is None:
        axes.set_ylabel("mel band")
        return
    axes.set_ylabel("frequency (Hz)")
    inside = [hz for hz in FREQUENCY_TICKS if band_frequencies[0] <= hz <= band_frequencies[-1]]
    axes.set_yticks(np.interp(inside, band_frequencies, np.arange(bands)), [str(hz) for hz in inside])


def _draw_bars(axes: "Axes", labels: Mapping[str, float]) -> None:
    positions = range(len(labels))
    values = list(labels.values())
    bars = axes.barh(positions, values, color="tab:blue", height=0.7)
    axes.bar_label(bars, fmt="{:.3f}", padding=3, fontsize=9)
    axes.set_yticks(positions, list(labels), parse_math=False)
    axes.invert_yaxis()
    if min(values) >= 0 and max(values) <= 1:
        axes.set_xlim(0.0, 1.12)
        axes.set_xticks(np.linspace(0, 1, 6))
    else:
        axes.margins(x=0.12)
    axes.set_xlabel("score")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_timeline(axes: "Axes", labels: Sequence[str], segments: Sequence[ScoredSegment]) -> None:
    """Heat map of labels over time; overlapping segments hand over halfway through their overlap."""
    starts = np.array([segment.start_s for segment in segments])
    ends = np.array([segment.end_s for segment in segments])
    if (np.diff(starts) <= 0).any():
        raise DataError("scored segments must be in the order of time, each starting after the one before")
    values = np.array([[segment.scores.get(name, 0.0) for segment in segments] for name in labels])
    borders = np.concatenate([starts[:1], (ends[:-1] + starts[1:]) / 2, ends[-1:]])
    in_unit_range = values.min() >= 0 and values.max() <= 1
    mesh = axes.pcolormesh(
        borders,
        np.arange(len(labels) + 1) - 0.5,
        values,
        cmap="viridis",
        vmin=0.0 if in_unit_range else None,
        vmax=1.0 if in_unit_range else None,
        shading="flat",
    )
    axes.figure.colorbar(mesh, ax=axes, label="score", pad=0.01)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("time (s)")
