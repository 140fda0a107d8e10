"""Notes as arrays: what the metrics of symbolic music take.

A piece is an array `(notes, 4)` whose columns are onset in seconds, pitch (MIDI number, 0 to 127), duration in seconds
and velocity (1 to 127); in any order of rows. Files and instruments play no part here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_audio_mamba.errors import DataError, ShapeError

Array = NDArray[Any]

ONSET, PITCH, DURATION, VELOCITY = range(4)
COLUMNS = ("onset", "pitch", "duration", "velocity")
_LARGEST_MIDI_NUMBER = 127


def checked_pieces(pieces: Sequence[ArrayLike], argument: str) -> list[Array]:
    """Pieces as float64 arrays `(notes, 4)`, their notes by onset and then by pitch.

    Args:
        pieces: One array of notes a piece; a piece may have no notes.
        argument: What the pieces are called where they come from, for messages.

    Raises:
        ShapeError: If a piece is not `(notes, 4)`.
        DataError: If a value is not finite, a pitch is not a whole number of 0 to 127, a velocity is not of 0 to 127,
            or a duration is below 0.
    """
    return [_checked(piece, f"{argument}[{index}]") for index, piece in enumerate(pieces)]


def _checked(piece: ArrayLike, name: str) -> Array:
    try:
        notes = np.asarray(piece, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"{name} must be an array (notes, 4) of {', '.join(COLUMNS)}: {error}") from error
    if notes.size == 0:
        return np.empty((0, len(COLUMNS)))
    if notes.ndim != 2 or notes.shape[1] != len(COLUMNS):
        raise ShapeError(f"{name} has the shape {notes.shape}, it must be (notes, 4) of {', '.join(COLUMNS)}")
    if not np.isfinite(notes).all():
        raise DataError(f"{name} holds NaN or infinite values; read the music again")
    pitches = notes[:, PITCH]
    if ((pitches != np.floor(pitches)) | (pitches < 0) | (pitches > _LARGEST_MIDI_NUMBER)).any():
        raise DataError(f"{name}: pitches must be whole numbers of 0 to 127")
    if ((notes[:, VELOCITY] < 0) | (notes[:, VELOCITY] > _LARGEST_MIDI_NUMBER)).any():
        raise DataError(f"{name}: velocities must be of 0 to 127")
    if (notes[:, DURATION] < 0).any():
        raise DataError(f"{name}: durations must not be below 0 seconds")
    return notes[np.lexsort((pitches, notes[:, ONSET]))]
