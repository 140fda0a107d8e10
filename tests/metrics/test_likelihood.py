"""Nats per token, bits per note and second, and loss by position, against sums by hand."""

import math

import numpy as np
import pytest

from hf_audio_mamba.errors import DataError, ShapeError, UsageError
from hf_audio_mamba.metrics import MusicLikelihood, PositionBin, likelihood_scores, loss_by_position

NATS = [[1.0, 2.0, 3.0], [0.5], [4.0, 4.0]]


def test_scores_are_ratios_of_sums_over_all_pieces() -> None:
    scores = likelihood_scores(NATS, notes=[2, 1, 4], seconds=[1.5, 0.5, 3.0])
    assert scores == {
        "nats_per_token": pytest.approx(14.5 / 6),
        "bits_per_note": pytest.approx(14.5 / math.log(2) / 7),
        "bits_per_second": pytest.approx(14.5 / math.log(2) / 5),
        "tokens": 6,
        "notes": 7,
        "seconds": 5.0,
        "pieces": 3,
    }


def test_a_uniform_model_costs_the_logarithm_of_its_vocabulary() -> None:
    """Four tokens a note of 16 equally probable ones are 16 bits a note."""
    scores = likelihood_scores([np.full(40, math.log(16))] * 3, notes=[10] * 3, seconds=[5] * 3)
    assert scores["bits_per_note"] == pytest.approx(16)
    assert scores["bits_per_second"] == pytest.approx(32)


def test_the_metric_equals_the_function_also_in_batches() -> None:
    generator = np.random.default_rng(0)
    nats = [generator.exponential(2.0, size) for size in (30, 1, 500)]
    notes, seconds = [9, 1, 170], [2.25, 0.125, 60.0]
    expected = likelihood_scores(nats, notes, seconds)
    assert MusicLikelihood().compute(predictions=nats, notes=notes, seconds=seconds) == expected
    metric = MusicLikelihood()
    metric.add_batch(predictions=nats[:1], notes=notes[:1], seconds=seconds[:1])
    metric.add_batch(predictions=nats[1:], notes=notes[1:], seconds=seconds[1:])
    assert metric.compute() == expected


@pytest.mark.parametrize(
    ("nats", "notes", "seconds", "error", "message"),
    [
        ([], [], [], DataError, "nats holds no tokens"),
        ([[]], [1], [1.0], DataError, "nats holds no tokens"),
        ([[[1.0]]], [1], [1.0], ShapeError, r"nats\[0\] has the shape \(1, 1\)"),
        ([[1.0], [math.nan]], [1, 1], [1.0, 1.0], DataError, r"nats\[1\] holds values"),
        ([[-0.1]], [1], [1.0], DataError, r"nats\[0\] holds values"),
        ([[1.0]], [1, 2], [1.0], ShapeError, r"notes \(2,\) and seconds \(1,\)"),
        ([[1.0]], [0], [1.0], DataError, "notes must be finite"),
        ([[1.0]], [1], [-1.0], DataError, "seconds must be finite"),
    ],
)
def test_what_cannot_be_scored_is_named(nats, notes, seconds, error, message) -> None:
    with pytest.raises(error, match=message):
        likelihood_scores(nats, notes, seconds)


def test_loss_by_position_takes_the_tokens_of_each_range() -> None:
    generator = np.random.default_rng(1)
    nats = [generator.exponential(2.0, size) for size in (10, 40, 33)]
    bins = loss_by_position(nats, edges=[1, 5, 12, 40, 90])
    assert [(b.start, b.stop) for b in bins] == [(1, 5), (5, 12), (12, 40), (40, 90)]
    for found in bins:
        values = [
            (k, v) for k, piece in enumerate(nats) for p, v in enumerate(piece, 1) if found.start <= p < found.stop
        ]
        assert found.tokens == len(values)
        assert found.pieces == len({k for k, _ in values})
        assert found.nats_per_token == pytest.approx(sum(v for _, v in values) / len(values))


def test_the_default_bins_double_and_hold_every_token_once() -> None:
    nats = [np.ones(100), np.ones(20)]
    bins = loss_by_position(nats)
    assert [(b.start, b.stop) for b in bins] == [(1, 16), (16, 32), (32, 64), (64, 128)]
    assert sum(b.tokens for b in bins) == 120
    assert [b.pieces for b in bins] == [2, 2, 1, 1]


def test_short_pieces_can_be_left_out() -> None:
    bins = loss_by_position([[9.0] * 3, [1.0] * 6], edges=[1, 4, 7], min_tokens=6)
    assert bins == [PositionBin(1, 4, 1.0, 3, 1), PositionBin(4, 7, 1.0, 3, 1)]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"edges": [5]}, UsageError, "edges are"),
        ({"edges": [0, 5]}, UsageError, "edges are"),
        ({"edges": [4, 4]}, UsageError, "edges are"),
        ({"min_tokens": 0}, UsageError, "min_tokens is 0"),
        ({"min_tokens": 4}, DataError, "no piece has 4 tokens"),
    ],
)
def test_unusable_bins_are_named(options, error, message) -> None:
    with pytest.raises(error, match=message):
        loss_by_position(NATS, **options)
