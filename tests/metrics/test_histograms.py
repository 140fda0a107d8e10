"""Histograms of notes, their overlap and divergence, against numpy.histogram, scipy and counting by hand."""

import math

import numpy as np
import pytest
from scipy.stats import entropy

from hf_audio_mamba.errors import DataError, ShapeError
from hf_audio_mamba.metrics import (
    NoteHistogramSimilarity,
    histogram_divergence,
    histogram_overlap,
    note_histograms,
)
from hf_audio_mamba.metrics.histograms import HISTOGRAMS, TIME_EDGES


def random_piece(seed: int, notes: int = 60) -> np.ndarray:
    generator = np.random.default_rng(seed)
    columns = (
        generator.integers(0, 200, notes) / 24,
        generator.integers(21, 109, notes),
        generator.exponential(0.4, notes),
        generator.integers(1, 128, notes),
    )
    return np.stack(columns, axis=1).astype(np.float64)


def test_counts_equal_numpys() -> None:
    pieces = [random_piece(0), random_piece(1, 1), np.empty((0, 4)), random_piece(2)]
    counts = note_histograms(pieces)
    together = np.concatenate(pieces)
    edges = [-math.inf, *TIME_EDGES, math.inf]
    intervals = np.concatenate([np.diff(np.sort(piece[:, 0])) for piece in pieces])
    assert np.array_equal(counts["pitch_class"], [(together[:, 1] % 12 == k).sum() for k in range(12)])
    assert np.array_equal(counts["inter_onset"], np.histogram(intervals, edges)[0])
    assert np.array_equal(counts["duration"], np.histogram(together[:, 2], edges)[0])
    assert np.array_equal(counts["velocity"], np.histogram(together[:, 3], np.arange(0, 129, 8))[0])
    assert counts["inter_onset"].sum() == 60 + 60 - 2


def test_a_chord_by_hand() -> None:
    """Three notes at once, one a quarter of a second later: intervals 0, 0 and 1/4."""
    counts = note_histograms([[[0, 60, 1, 64], [0.25, 72, 1, 64], [0, 67, 1, 64], [0, 64, 2, 127]]])
    assert counts["pitch_class"].tolist() == [2, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0]
    assert counts["inter_onset"][0] == 2
    quarter = 1 + int(np.flatnonzero(TIME_EDGES < 0.25)[-1])
    assert counts["inter_onset"][quarter] == 1
    assert counts["velocity"][8] == 3
    assert counts["velocity"][15] == 1


@pytest.mark.parametrize("steps_per_second", [8, 16, 24, 48, 100])
def test_rounding_moves_no_note_of_a_grid_to_another_bin(steps_per_second: int) -> None:
    times = np.arange(1, 1000) / steps_per_second
    for moved in (times * (1 - 1e-9), times * (1 + 1e-9)):
        assert np.array_equal(np.searchsorted(TIME_EDGES, moved), np.searchsorted(TIME_EDGES, times))


def test_overlap_and_divergence_by_hand() -> None:
    assert histogram_overlap([1, 3], [3, 1]) == pytest.approx(0.5)
    assert histogram_overlap([2, 0], [0, 7]) == 0
    assert histogram_divergence([1, 3], [3, 1], smoothing=0) == pytest.approx(0.5 * math.log(3))
    assert histogram_divergence([1, 1], [2, 0], smoothing=0) == math.inf
    # (1.5, 3.5) / 5 from (3.5, 1.5) / 5
    assert histogram_divergence([1, 3], [3, 1]) == pytest.approx(0.4 * math.log(3.5 / 1.5))


@pytest.mark.parametrize("smoothing", [0.5, 2.0])
def test_divergence_equals_scipys(smoothing: float) -> None:
    generator = np.random.default_rng(3)
    p, q = generator.poisson(3, 21), generator.poisson(2, 21)
    expected = entropy(p + smoothing, q + smoothing)
    assert histogram_divergence(p, q, smoothing=smoothing) == pytest.approx(expected, rel=1e-12)
    assert histogram_divergence(p, p) == 0
    assert histogram_overlap(p, p) == pytest.approx(1)
    assert histogram_overlap(p, q) == pytest.approx(1 - np.abs(p / p.sum() - q / q.sum()).sum() / 2)


def test_the_metric_equals_the_functions() -> None:
    held_out, other = [random_piece(0), random_piece(1)], [random_piece(2), random_piece(3), random_piece(4)]
    reference, counted = note_histograms(held_out), note_histograms(other)
    scores = NoteHistogramSimilarity(held_out).compute(predictions=other)
    assert scores.pop("notes") == 180
    assert len(scores) == 2 * len(HISTOGRAMS)
    for name in HISTOGRAMS:
        assert scores[f"{name}_overlap"] == pytest.approx(histogram_overlap(reference[name], counted[name]))
        assert scores[f"{name}_divergence"] == pytest.approx(histogram_divergence(reference[name], counted[name]))
    assert NoteHistogramSimilarity(held_out).compute(predictions=held_out)["duration_overlap"] == pytest.approx(1)


def test_order_of_rows_and_pieces_plays_no_part() -> None:
    pieces = [random_piece(5), random_piece(6)]
    shuffled = [np.random.default_rng(0).permutation(piece) for piece in reversed(pieces)]
    for name, counts in note_histograms(pieces).items():
        assert np.array_equal(counts, note_histograms(shuffled)[name])


def test_music_without_notes_has_no_overlap_to_tell() -> None:
    scores = NoteHistogramSimilarity([random_piece(0)]).compute(predictions=[[]])
    assert scores["notes"] == 0
    assert all(math.isnan(value) for name, value in scores.items() if name != "notes")
    with pytest.raises(DataError, match="held_out holds no notes"):
        NoteHistogramSimilarity([[]])


@pytest.mark.parametrize(
    ("notes", "error", "message"),
    [
        ([[0.0, 60, 1]], ShapeError, r"pieces\[0\] has the shape \(1, 3\)"),
        ([[0.0, 60, 1, 64], [0.0]], ShapeError, r"pieces\[0\] must be an array"),
        ([[math.nan, 60, 1, 64]], DataError, "NaN or infinite"),
        ([[0.0, 128, 1, 64]], DataError, "pitches must be whole numbers of 0 to 127"),
        ([[0.0, 60.5, 1, 64]], DataError, "pitches must be whole"),
        ([[0.0, 60, 1, 128]], DataError, "velocities must be"),
        ([[0.0, 60, -1, 64]], DataError, "durations must not"),
    ],
)
def test_notes_that_are_none_are_named(notes, error, message) -> None:
    with pytest.raises(error, match=message):
        note_histograms([notes])


def test_histograms_that_do_not_compare_are_named() -> None:
    with pytest.raises(ShapeError, match=r"reference \(2,\) and other \(3,\)"):
        histogram_overlap([1, 2], [1, 2, 3])
    with pytest.raises(DataError, match="other holds counts"):
        histogram_divergence([1, 2], [1, -2])
    with pytest.raises(DataError, match="smoothing is -1"):
        histogram_divergence([1, 2], [1, 2], smoothing=-1)
