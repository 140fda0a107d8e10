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
        score: Score in ticks or any other unit of time; it stays as it is.

    Returns:
        `(notes, 4)` in float64: onset in seconds, pitch (MIDI number), duration in seconds, velocity (0 to 127).
    """
    parts = [np.empty((0, 4))]
    for track in score.to("second").tracks:
        if track.is_drum or len(track.notes) == 0:
            continue
        columns = track.notes.numpy()
        names = ("time", "pitch", "duration", "velocity")
        parts.append(np.stack([np.asarray(columns[name], dtype=np.float64) for name in names], axis=1))
    notes = np.concatenate(parts)
    return notes[np.lexsort((notes[:, 1], notes[:, 0]))]


def music_seconds(score: "Score") -> float:
    """Seconds from the beginning of a score to the end of its last note; 0 without notes. Drums count here."""
    ends = [0.0]
    for track in score.to("second").tracks:
        if len(track.notes):
            columns = track.notes.numpy()
            ends.append(float((columns["time"].astype(np.float64) + columns["duration"]).max()))
    return max(ends)
