"""Do two sets of music use the same pitch classes, rhythms, lengths and velocities? Histograms, overlap, divergence.

Each histogram counts over all notes of all pieces of a set, so a long piece weighs more than a short one:

- pitch class: pitch modulo 12, 12 bins;
- inter-onset: seconds from each note's onset to that of the next note of the piece, notes by onset and pitch, so that
  notes struck together count as 0; 21 bins, two an octave from 1/64 s to 8 s, and one beyond on either side;
- duration: seconds, in the same bins;
- velocity: 16 bins of 8 values.

The bounds in time are 2^(k/2 + 1/4) s: no fraction of a second with a small denominator lies on one, so rounding does
not move the notes of a regular grid from bin to bin. Sets are compared after the same quantisation, else the comparison
is one of grids.

Overlap is the histogram intersection Σ min(p, q) of the two relative frequencies (Swain & Ballard 1991, "Color
indexing", section 3.2), 1 for equal and 0 for disjoint ones. It is not the "overlapped area" of Yang & Lerch 2020 ("On
the evaluation of generative models in music", section 4), which compares distributions of distances between pieces. The
divergence is Kullback and Leibler's, Σ p ln(p / q) in nats, of the held-out music p from the other set q, after half a
note is added to each bin of both (Krichevsky & Trofimov 1981), so that it is finite; it falls with the number of notes,
and sets of much different size compare by overlap rather than by it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_audio_mamba.errors import DataError, ShapeError
from hf_audio_mamba.metrics.notes import DURATION, ONSET, PITCH, VELOCITY, checked_pieces

Array = NDArray[Any]

SMOOTHING = 0.5
"""Notes added to each bin before a divergence is taken."""

TIME_EDGES = 2.0 ** (np.arange(-13, 7) / 2 + 0.25)
"""Bounds in seconds of the bins of inter-onset intervals and durations, 0.013 to 9.5; one bin more on either side."""


def _pitch_class_counts(notes: Array) -> Array:
    return np.bincount(notes[:, PITCH].astype(np.int64) % 12, minlength=12)


def _inter_onset_counts(notes: Array) -> Array:
    return _time_counts(np.diff(notes[:, ONSET]))


def _duration_counts(notes: Array) -> Array:
    return _time_counts(notes[:, DURATION])


def _velocity_counts(notes: Array) -> Array:
    return np.bincount(notes[:, VELOCITY].astype(np.int64) // 8, minlength=16)


def _time_counts(seconds: Array) -> Array:
    return np.bincount(np.searchsorted(TIME_EDGES, seconds, side="right"), minlength=len(TIME_EDGES) + 1)


_COUNTS: dict[str, Callable[[Array], Array]] = {
    "pitch_class": _pitch_class_counts,
    "inter_onset": _inter_onset_counts,
    "duration": _duration_counts,
    "velocity": _velocity_counts,
}

HISTOGRAMS = tuple(_COUNTS)
"""Names of the histograms."""


def note_histograms(pieces: Sequence[ArrayLike]) -> dict[str, Array]:
    """Counts over all notes of a set of pieces.

    Args:
        pieces: For each piece its notes `(notes, 4)`: onset in s, pitch, duration in s, velocity.

    Returns:
        For each name of `HISTOGRAMS` the counts `(bins,)`, as int64.

    Raises:
        ShapeError: If a piece is not `(notes, 4)`.
        DataError: If a value is out of range.
    """
    checked = checked_pieces(pieces, "pieces")
    nothing = np.empty((0, 4))
    return {name: sum((count(piece) for piece in checked), count(nothing)) for name, count in _COUNTS.items()}


def histogram_overlap(reference: ArrayLike, other: ArrayLike) -> float:
    """Intersection of two histograms of counts `(bins,)`, 0 to 1; NaN where one of them is empty.

    Raises:
        ShapeError: If they do not have the same bins.
        DataError: If a count is not finite or below 0.
    """
    first, second = _checked_counts(reference, other)
    if first.sum() == 0 or second.sum() == 0:
        return math.nan
    return float(np.minimum(first / first.sum(), second / second.sum()).sum())


def histogram_divergence(reference: ArrayLike, other: ArrayLike, *, smoothing: float = SMOOTHING) -> float:
    """Kullback-Leibler divergence in nats of two histograms of counts `(bins,)`; NaN where one of them is empty.

    Args:
        reference: Counts of the held-out music, over which the expectation is taken.
        other: Counts of the other set.
        smoothing: What is added to each count of both; 0 makes it infinite where `other` lacks what `reference` has.

    Raises:
        ShapeError: If they do not have the same bins.
        DataError: If a count or the smoothing is not finite or below 0.
    """
    if not (math.isfinite(smoothing) and smoothing >= 0):
        raise DataError(f"smoothing is {smoothing}, it must be 0 or a number above")
    first, second = _checked_counts(reference, other)
    if first.sum() == 0 or second.sum() == 0:
        return math.nan
    p, q = ((counts + smoothing) / (counts + smoothing).sum() for counts in (first, second))
    present = p > 0
    with np.errstate(divide="ignore"):
        return float((p[present] * (np.log(p[present]) - np.log(q[present]))).sum())


def histogram_scores(histograms: Mapping[str, ArrayLike], reference: Mapping[str, ArrayLike]) -> dict[str, float]:
    """Overlap and divergence for each name of `HISTOGRAMS`, as `<name>_overlap` and `<name>_divergence`.

    Args:
        histograms: Counts of the music to judge, as `note_histograms` gives them.
        reference: Counts of the held-out music.
    """
    scores = {}
    for name in HISTOGRAMS:
        scores[f"{name}_overlap"] = histogram_overlap(reference[name], histograms[name])
        scores[f"{name}_divergence"] = histogram_divergence(reference[name], histograms[name])
    return scores


def _checked_counts(reference: ArrayLike, other: ArrayLike) -> tuple[Array, Array]:
    first, second = np.asarray(reference, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or first.size == 0:
        raise ShapeError(f"reference {first.shape} and other {second.shape} must both be (bins,)")
    for name, counts in (("reference", first), ("other", second)):
        if not np.isfinite(counts).all() or (counts < 0).any():
            raise DataError(f"{name} holds counts that are not finite or below 0")
    return first, second
