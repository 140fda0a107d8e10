"""Which window speaks for which stretch, and how scores are averaged."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.features import iter_windows
from hf_audio_mamba.pipelines.windows import Chunking, ScoredStretch, average_over_time, scored_stretches

RATE = 1000


def stretches_of(samples: np.ndarray, chunking: Chunking) -> Iterator[ScoredStretch]:
    windows = iter_windows(samples, sampling_rate=RATE, window_seconds=chunking.chunk_s, hop_seconds=chunking.hop_s)
    return scored_stretches(windows, chunking, sampling_rate=RATE)


@settings(max_examples=200, deadline=None)
@given(
    length=st.integers(1, 4000),
    chunk=st.integers(100, 1500),
    left=st.floats(0, 0.49),
    right=st.floats(0, 0.49),
)
def test_stretches_cover_the_recording_once_and_lie_in_their_windows(
    length: int, chunk: int, left: float, right: float
) -> None:
    chunking = Chunking.from_arguments(
        chunk / RATE, (int(left * (chunk - 10)) / RATE, int(right * (chunk - 10)) / RATE)
    )
    ramp = np.linspace(0.25, 1, length, dtype=np.float32)
    stretches = list(stretches_of(ramp, chunking))

    assert stretches[0].start_s == 0
    assert stretches[-1].end_s == pytest.approx(length / RATE)
    assert [stretch.is_last for stretch in stretches] == [False] * (len(stretches) - 1) + [True]
    for before, after in itertools.pairwise(stretches):
        assert after.start_s == before.end_s
    for stretch in stretches:
        assert stretch.end_s > stretch.start_s
        assert len(stretch.samples) == min(length, chunk)
        # The samples of the stretch itself are in what the model hears: on a ramp the value tells the place.
        first, last = ramp[round(stretch.start_s * RATE)], ramp[round(stretch.end_s * RATE) - 1]
        assert stretch.samples[0] <= first
        assert stretch.samples[-1] >= last
        heard = np.searchsorted(ramp, stretch.samples[0])
        np.testing.assert_array_equal(stretch.samples, ramp[heard : heard + len(stretch.samples)])


def test_context_is_heard_but_scored_by_the_neighbour() -> None:
    chunking = Chunking.from_arguments(1.0, (0.3, 0.1))
    stretches = list(stretches_of(np.ones(2500, dtype=np.float32), chunking))
    bounds = [(round(stretch.start_s, 6), round(stretch.end_s, 6)) for stretch in stretches]
    assert bounds == [(0, 0.9), (0.9, 1.5), (1.5, 2.1), (2.1, 2.5)]


def test_short_rest_is_heard_with_what_came_before() -> None:
    samples = np.arange(1, 2051, dtype=np.float32)
    *_, rest = stretches_of(samples, Chunking.from_arguments(1.0))
    assert (rest.start_s, rest.end_s) == (2.0, 2.05)
    np.testing.assert_array_equal(rest.samples, samples[-1000:])


@pytest.mark.parametrize("chunk", [0, -1, 0.05, float("nan"), float("inf"), True, "10", [10]])
def test_unusable_chunk_lengths_are_refused_by_name(chunk: object) -> None:
    with pytest.raises(UsageError, match="chunk_length_s"):
        Chunking.from_arguments(chunk)


@pytest.mark.parametrize("stride", [-0.1, 0.5, 2, (0.6, 0.4), (0.1,), (0.1, 0.1, 0.1), "1", True, float("nan")])
def test_unusable_strides_are_refused_by_name(stride: object) -> None:
    with pytest.raises(UsageError, match="stride_length_s"):
        Chunking.from_arguments(1.0, stride)


def test_a_number_is_context_on_both_sides() -> None:
    assert Chunking.from_arguments(10, 2) == Chunking(10.0, 2.0, 2.0)
    assert Chunking.from_arguments(10, 2).hop_s == 6.0
    assert Chunking.from_arguments(np.float32(1), (0, 0.25)) == Chunking(1.0, 0.0, 0.25)


def test_average_weighs_seconds() -> None:
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert average_over_time(scores, [3.0, 1.0]).tolist() == [0.75, 0.25]


def test_average_of_one_window_is_that_window() -> None:
    scores = torch.tensor([[0.1, 0.7, 0.2]])
    torch.testing.assert_close(average_over_time(scores, [0.37]).float(), scores[0], rtol=0, atol=0)
