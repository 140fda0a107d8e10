"""Notes over time: pitch upwards, colour for loudness, and where a continuation begins."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_audio_mamba._optional import require
from hf_audio_mamba.errors import DataError
from hf_audio_mamba.plots.figure import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_WIDTH, MAX_WIDTH = 6.0, 40.0
INCHES_PER_SECOND = 0.25
SEMITONES_AROUND = 2
OCTAVE = 12
BAR_HEIGHT = 0.9


class RollNote(NamedTuple):
    """A note to draw.

    Attributes:
        onset_s: Beginning in seconds.
        duration_s: Length in seconds, at least 0.
        pitch: MIDI number, 60 is middle C.
        velocity: Loudness, 0 to 127.
    """

    onset_s: float
    duration_s: float
    pitch: int
    velocity: int


def draw_piano_roll(notes: Sequence[RollNote], *, start_s: float | None = None, title: str = "") -> "Figure":
    """Draw notes as bars.

    Args:
        notes: Notes in any order; none gives an empty grid.
        start_s: Where a continuation begins, drawn as a line, in seconds.
        title: Heading, for example the file's name.

    Raises:
        DataError: If times are not finite or negative, or pitches and velocities outside 0 to 127.
        MissingExtraError: If matplotlib is not installed.
    """
    values = np.array([note[:4] for note in notes], dtype=np.float64).reshape(-1, 4)
    onsets, durations, pitches, velocities = values.T
    if not np.isfinite(values).all() or (values < 0).any():
        raise DataError("notes must have finite onsets and durations of at least 0 s")
    if (values[:, 2:] > 127).any():
        raise DataError("notes must have pitches and velocities from 0 to 127")
    end = max([1.0, *(onsets + durations), *([] if start_s is None else [start_s])])
    width = min(max(end * INCHES_PER_SECOND, MIN_WIDTH), MAX_WIDTH)
    figure = new_figure(width, 4.0, purpose="drawing a piano roll")
    axes = figure.subplots()
    if len(values):
        bars = _bars(onsets, durations, pitches, velocities)
        axes.add_collection(bars)
        figure.colorbar(bars, ax=axes, label="velocity", pad=0.01)
        lowest, highest = pitches.min() - SEMITONES_AROUND, pitches.max() + SEMITONES_AROUND
    else:
        lowest, highest = 60 - OCTAVE, 60 + OCTAVE
    octaves = [pitch for pitch in range(0, 128, OCTAVE) if lowest <= pitch <= highest]
    axes.set_yticks(octaves, [f"C{pitch // OCTAVE - 1}" for pitch in octaves])
    axes.set_ylim(lowest, highest)
    axes.set_xlim(0.0, end)
    axes.grid(axis="y", linewidth=0.5, alpha=0.5)
    axes.set_axisbelow(True)
    axes.set_xlabel("time (s)")
    axes.set_ylabel("pitch")
    if start_s is not None:
        axes.axvline(start_s, color="tab:red", linestyle="--", linewidth=1.2, label="continuation begins")
        axes.legend(loc="upper right", fontsize=8)
    if title:
        # File names may hold dollar signs, which matplotlib would set as mathematics.
        axes.set_title(title, parse_math=False)
    return figure


def _bars(
    onsets: NDArray[np.float64],
    durations: NDArray[np.float64],
    pitches: NDArray[np.float64],
    velocities: NDArray[np.float64],
) -> Any:
    """All notes as one artist: matplotlib takes seconds for thousands of them."""
    collections = require("matplotlib.collections", extra="viz", purpose="drawing a piano roll")
    ends, low, high = onsets + durations, pitches - BAR_HEIGHT / 2, pitches + BAR_HEIGHT / 2
    corners = np.stack([onsets, low, ends, low, ends, high, onsets, high], axis=1).reshape(-1, 4, 2)
    bars = collections.PolyCollection(corners, cmap="viridis", linewidths=0)
    bars.set_array(velocities)
    bars.set_clim(0, 127)
    return bars


def save_piano_roll(
    notes: Sequence[RollNote], path: str | Path, *, start_s: float | None = None, title: str = ""
) -> Path:
    """Write the figure of `draw_piano_roll` as PNG.

    Raises:
        DataError: If the notes cannot be drawn.
        OutputError: If the file cannot be written.
        MissingExtraError: If matplotlib is not installed.
    """
    return save_figure(draw_piano_roll(notes, start_s=start_s, title=title), path)
