"""How much of some music is copied from other music: n-grams of notes that both have.

An n-gram is n notes of a piece in succession, notes by onset and then by pitch, described by their pitches (`"pitch"`)
or by the n - 1 steps between them in semitones (`"interval"`), which finds copies in another key too. Rhythm plays no
part: a copy played with other timing is found, and so are scales and trills that anybody writes. What rate is much is
therefore told by that of held-out music against the same training set.

Equality is exact, not by hash: runs of 2^k symbols get numbers by pairs of numbers of runs half as long (Karp, Miller &
Rosenberg 1972, "Rapid identification of repeated patterns in strings, trees and arrays", section 3).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_audio_mamba.errors import DataError, UsageError
from hf_audio_mamba.metrics.notes import PITCH, checked_pieces

Array = NDArray[Any]

LENGTHS = (4, 8, 16)
"""Numbers of notes for which rates are given by default."""

KINDS = ("pitch", "interval")
"""By what an n-gram is described."""


def copy_rates(
    generated: Sequence[ArrayLike],
    training: Sequence[ArrayLike],
    *,
    lengths: Sequence[int] = LENGTHS,
    kind: str = "pitch",
) -> dict[int, float]:
    """Share of the n-grams of notes of some music that occur anywhere in other music.

    Args:
        generated: For each piece its notes `(notes, 4)`: onset in s, pitch, duration in s, velocity.
        training: The pieces that may have been copied from, likewise.
        lengths: Numbers of notes in an n-gram, each at least 2.
        kind: `"pitch"` or `"interval"`, see above.

    Returns:
        For each length the share, 0 to 1, over all n-grams of all generated pieces, repeated ones counted each time;
        NaN where no piece has as many notes.

    Raises:
        UsageError: If the kind is unknown or a length is below 2.
        ShapeError: If a piece is not `(notes, 4)`.
        DataError: If the training music has no notes, or a value is out of range.
    """
    _check_lengths(lengths)
    return _rates(_shared_runs(generated, training, kind), lengths, kind)


def longest_copy(generated: Sequence[ArrayLike], training: Sequence[ArrayLike], *, kind: str = "pitch") -> int:
    """Notes in the longest run of one generated piece that a training piece has too.

    Args:
        generated: For each piece its notes `(notes, 4)`.
        training: The pieces that may have been copied from, likewise.
        kind: `"pitch"` or `"interval"`, see above.

    Returns:
        The number of notes; 0 where not even one is shared, or nothing was generated.

    Raises:
        UsageError: If the kind is unknown.
        ShapeError: If a piece is not `(notes, 4)`.
        DataError: If the training music has no notes, or a value is out of range.
    """
    return _longest(_shared_runs(generated, training, kind), kind)


def copy_scores(
    generated: Sequence[ArrayLike], training: Sequence[ArrayLike], *, lengths: Sequence[int] = LENGTHS
) -> dict[str, float]:
    """For each kind of `KINDS` what `copy_rates` gives, as `<kind>_copy_rate_<n>`, and `<kind>_longest_copy`.

    Args:
        generated: For each piece its notes `(notes, 4)`.
        training: The pieces that may have been copied from, likewise.
        lengths: Numbers of notes in an n-gram, each at least 2.

    Raises:
        UsageError: If a length is below 2.
        ShapeError: If a piece is not `(notes, 4)`.
        DataError: If the training music has no notes, or a value is out of range.
    """
    _check_lengths(lengths)
    scores: dict[str, float] = {}
    for kind in KINDS:
        runs = _shared_runs(generated, training, kind)
        scores |= {f"{kind}_copy_rate_{n}": rate for n, rate in _rates(runs, lengths, kind).items()}
        scores[f"{kind}_longest_copy"] = _longest(runs, kind)
    return scores


def _check_lengths(lengths: Sequence[int]) -> None:
    if not lengths or any(n < 2 for n in lengths):
        raise UsageError(f"lengths are {tuple(lengths)}; an n-gram of notes has at least 2")


def _shared_runs(generated: Sequence[ArrayLike], training: Sequence[ArrayLike], kind: str) -> "_SharedRuns":
    if kind not in KINDS:
        raise UsageError(f"kind is {kind!r}; choose one of {', '.join(KINDS)}")
    played, known = checked_pieces(generated, "generated"), checked_pieces(training, "training")
    if not any(map(len, known)):
        raise DataError("training holds no notes; give the music that the model was trained on")
    return _SharedRuns(_symbols(played, kind), _symbols(known, kind), any(map(len, played)))


def _rates(runs: "_SharedRuns", lengths: Sequence[int], kind: str) -> dict[int, float]:
    rates = {}
    for n in sorted(set(lengths)):
        occurs = runs.occurs(n - _fewer_symbols(kind))
        rates[n] = float(occurs.mean()) if len(occurs) else math.nan
    return rates


def _longest(runs: "_SharedRuns", kind: str) -> int:
    if not runs.has_notes:
        return 0
    low, high = 0, 1
    while runs.occurs(high).any():
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if runs.occurs(middle).any() else (low, middle)
    # Any single note is a run without an interval.
    return low + _fewer_symbols(kind)


def _fewer_symbols(kind: str) -> int:
    """How many symbols fewer than notes describe a run."""
    return 1 if kind == "interval" else 0


def _symbols(pieces: list[Array], kind: str) -> list[Array]:
    pitches = [piece[:, PITCH].astype(np.int64) for piece in pieces]
    return [np.diff(piece) for piece in pitches] if kind == "interval" else pitches


class _SharedRuns:
    """Which runs of symbols of some sequences occur in others.

    Args:
        generated: Symbols of each piece.
        training: Symbols of each piece to look in.
        has_notes: Whether the generated pieces have any note, which one alone does without a symbol.
    """

    def __init__(self, generated: Sequence[Array], training: Sequence[Array], has_notes: bool) -> None:
        self.has_notes = has_notes
        pieces = [*generated, *training]
        self._symbols = np.concatenate([np.empty(0, np.int64), *pieces])
        lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
        self._ends = np.repeat(np.cumsum(lengths), lengths)
        self._generated = sum(map(len, generated))
        self._numbers = {1: np.unique(self._symbols, return_inverse=True)[1].astype(np.int64)}

    def occurs(self, length: int) -> Array:
        """For each run of a length that a generated sequence holds, whether a training sequence holds it."""
        starts, runs = self._runs(length)
        first = starts < self._generated
        return np.isin(runs[first], runs[~first])

    def _runs(self, length: int) -> tuple[Array, Array]:
        """Starts of all runs of a length, and a number for each that equal ones share."""
        starts = np.flatnonzero(np.arange(len(self._symbols)) + length <= self._ends)
        half = 1 << max(0, (length - 1).bit_length() - 1)
        numbers = self._power(half)
        # Two runs of `half` symbols, overlapping unless `length` is twice as many, hold all that the run holds.
        return starts, numbers[starts] * (len(self._symbols) + 1) + numbers[starts + length - half]

    def _power(self, length: int) -> Array:
        if length not in self._numbers:
            starts, runs = self._runs(length)
            numbers = np.full(len(self._symbols), -1, dtype=np.int64)
            numbers[starts] = np.unique(runs, return_inverse=True)[1]
            self._numbers[length] = numbers
        return self._numbers[length]
