"""Scores as arrays of notes, the form that metrics take."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from symusic import Score

Array = NDArray[Any]


def note_array(score: "Score") -> Array:
    """Notes of all pitched tracks, by onset and then by pitch.

    Args:
        score: Score in ticks; it stays as it is.

    Returns:
        `(notes, 4)` in float64: onset in seconds, pitch (MIDI number), duration in seconds, velocity (0 to 127).
    """
    clock = _Clock(score)
    parts = [np.empty((0, 4))]
    for track in score.tracks:
        if track.is_drum or len(track.notes) == 0:
            continue
        columns = track.notes.numpy()
        begin, end = _span(columns)
        onset = clock.seconds(begin)
        parts.append(np.stack([onset, columns["pitch"], clock.seconds(end) - onset, columns["velocity"]], axis=1))
    notes = np.concatenate(parts)
    return notes[np.lexsort((notes[:, 1], notes[:, 0]))]


def music_seconds(score: "Score") -> float:
    """Seconds from the beginning of a score in ticks to the end of its last note, drums too; 0 without notes."""
    ends = [int(_span(track.notes.numpy())[1].max()) for track in score.tracks if len(track.notes)]
    return float(_Clock(score).seconds(np.array([max(ends, default=0)]))[0])


def _span(columns: dict[str, Array]) -> tuple[Array, Array]:
    begin = columns["time"].astype(np.int64)
    return begin, begin + columns["duration"]


class _Clock:
    """Ticks to seconds in float64; symusic's own seconds are float32, which is 0.1 ms after a quarter of an hour."""

    _DEFAULT_MICROSECONDS = 500_000

    def __init__(self, score: "Score") -> None:
        changes = sorted(((tempo.time, tempo.mspq) for tempo in score.tempos), key=lambda change: change[0])
        self._ticks = np.array([0, *(tick for tick, _ in changes)], dtype=np.int64)
        microseconds = np.array([self._DEFAULT_MICROSECONDS, *(mspq for _, mspq in changes)], dtype=np.float64)
        self._seconds_per_tick = microseconds / 1e6 / score.ticks_per_quarter
        spans = np.diff(self._ticks) * self._seconds_per_tick[:-1]
        self._seconds = np.concatenate([[0.0], np.cumsum(spans)])

    def seconds(self, ticks: Array) -> Array:
        last = np.searchsorted(self._ticks, ticks, side="right") - 1
        since: Array = (ticks - self._ticks[last]) * self._seconds_per_tick[last]
        return self._seconds[last] + since
