"""Copied n-grams of notes, against sets of tuples and a search of every run."""

import itertools
import math

import numpy as np
import pytest

from hf_audio_mamba.errors import DataError, UsageError
from hf_audio_mamba.metrics import NoteCopyRate, copy_rates, longest_copy


def piece(pitches) -> np.ndarray:
    """Notes of these pitches, a quarter of a second apart."""
    pitches = np.asarray(pitches, dtype=np.float64)
    count = np.arange(len(pitches))
    return np.stack([count / 4, pitches, np.full(len(pitches), 0.2), np.full(len(pitches), 64)], axis=1)


def random_pieces(seed: int, lengths) -> list[np.ndarray]:
    """Few pitches, so that runs of all lengths up to about ten are shared."""
    generator = np.random.default_rng(seed)
    return [piece(generator.integers(60, 63, length)) for length in lengths]


def runs(pieces, n: int, kind: str) -> list[tuple]:
    found = []
    for notes in pieces:
        pitches = [int(pitch) for pitch in notes[:, 1]]
        for start in range(len(pitches) - n + 1):
            run = pitches[start : start + n]
            found.append(tuple(b - a for a, b in itertools.pairwise(run)) if kind == "interval" else tuple(run))
    return found


@pytest.mark.parametrize("kind", ["pitch", "interval"])
def test_rates_equal_those_of_sets_of_tuples(kind: str) -> None:
    generated = random_pieces(0, (50, 3, 0, 80, 1))
    training = random_pieces(1, (40, 0, 7, 60))
    rates = copy_rates(generated, training, lengths=range(2, 13), kind=kind)
    for n, rate in rates.items():
        known = set(runs(training, n, kind))
        assert rate == pytest.approx(np.mean([run in known for run in runs(generated, n, kind)])), n
    assert 0 < rates[6] < 1


@pytest.mark.parametrize("kind", ["pitch", "interval"])
@pytest.mark.parametrize("seed", range(5))
def test_the_longest_copy_equals_that_of_a_search_of_every_run(kind: str, seed: int) -> None:
    generated, training = random_pieces(seed, (50, 30)), random_pieces(seed + 100, (40, 60))
    lengths = [n for n in range(1, 51) if set(runs(generated, n, kind)) & set(runs(training, n, kind))]
    assert longest_copy(generated, training, kind=kind) == max(lengths)


def test_a_transposed_copy_is_one_by_intervals_only() -> None:
    generator = np.random.default_rng(2)
    original = generator.integers(40, 80, 100)
    lifted = [piece(original[20:70] + 5)]
    assert copy_rates(lifted, [piece(original)], kind="interval") == {4: 1.0, 8: 1.0, 16: 1.0}
    assert copy_rates(lifted, [piece(original)])[8] == 0
    assert longest_copy(lifted, [piece(original)], kind="interval") == 50
    assert longest_copy([piece(original[20:70])], [piece(original)]) == 50


def test_no_run_goes_from_piece_to_piece() -> None:
    assert copy_rates([piece([60, 61, 62, 63])], [piece([60, 61]), piece([62, 63])], lengths=[2]) == {2: 2 / 3}
    assert copy_rates([piece([60, 61]), piece([62, 63])], [piece([61, 62])], lengths=[2]) == {2: 0.0}


def test_timing_plays_no_part_but_order_does() -> None:
    slow = piece([60, 64, 67, 72])
    slow[:, 0] *= 3.7
    assert copy_rates([slow], [piece([60, 64, 67, 72])], lengths=[4]) == {4: 1.0}
    assert copy_rates([slow[::-1]], [piece([60, 64, 67, 72])], lengths=[4]) == {4: 1.0}
    assert copy_rates([piece([72, 67, 64, 60])], [piece([60, 64, 67, 72])], lengths=[4]) == {4: 0.0}


def test_the_metric_equals_the_functions() -> None:
    generated, training = random_pieces(3, (40, 20)), random_pieces(4, (90,))
    scores = NoteCopyRate(training, lengths=(3, 6)).compute(predictions=generated)
    assert scores == {
        f"{kind}_{name}": value
        for kind in ("pitch", "interval")
        for name, value in {
            "copy_rate_3": copy_rates(generated, training, lengths=[3], kind=kind)[3],
            "copy_rate_6": copy_rates(generated, training, lengths=[6], kind=kind)[6],
            "longest_copy": longest_copy(generated, training, kind=kind),
        }.items()
    }


def test_music_without_notes_has_no_rate() -> None:
    training = random_pieces(0, (20,))
    assert all(math.isnan(rate) for rate in copy_rates([[]], training).values())
    assert all(math.isnan(rate) for rate in copy_rates([], training, kind="interval").values())
    assert longest_copy([], training) == longest_copy([[]], training, kind="interval") == 0
    assert longest_copy([piece([1])], training) == 0
    assert longest_copy([piece([1])], training, kind="interval") == 1


def test_what_cannot_be_compared_is_named() -> None:
    some = [piece([60, 61])]
    with pytest.raises(DataError, match="training holds no notes"):
        copy_rates(some, [[]])
    with pytest.raises(DataError, match="training holds no notes"):
        longest_copy(some, [])
    with pytest.raises(UsageError, match="kind is 'rhythm'"):
        copy_rates(some, some, kind="rhythm")
    for lengths in ([], [1, 4]):
        with pytest.raises(UsageError, match="lengths are"):
            copy_rates(some, some, lengths=lengths)
