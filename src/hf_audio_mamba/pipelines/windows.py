"""Score long audio window by window: which window speaks for which stretch, and how scores are averaged.

The words are those of transformers' speech recognition pipeline. A window of `chunk_length_s` seconds has a context
(its *stride*) on its left and right that the model hears but that is scored by the neighbouring window. The stretches
that are scored therefore cover the recording once, without gap or overlap.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.features import AudioWindow

MIN_CHUNK_S = 0.1
# Windows start at least this far apart, so that no setting multiplies the work by thousands.
MIN_HOP_S = 0.01


@dataclass(frozen=True)
class Chunking:
    """Checked settings of windowed scoring, in seconds.

    Attributes:
        chunk_s: Length of a window, its context included.
        left_s: Context on the left of the scored stretch.
        right_s: Context on the right of the scored stretch.
    """

    chunk_s: float
    left_s: float
    right_s: float

    @property
    def hop_s(self) -> float:
        """Distance between the starts of two windows."""
        return self.chunk_s - self.left_s - self.right_s

    @classmethod
    def from_arguments(cls, chunk_length_s: Any, stride_length_s: Any = None) -> "Chunking":
        """Check `chunk_length_s` and `stride_length_s` as users give them.

        Args:
            chunk_length_s: Seconds per window, at least 0.1.
            stride_length_s: Seconds of context on each side, or a pair (left, right); `None` means no context.

        Raises:
            UsageError: If a value is no number of seconds, or the context leaves nothing to score.
        """
        chunk = _seconds("chunk_length_s", chunk_length_s)
        if chunk < MIN_CHUNK_S:
            raise UsageError(f"chunk_length_s must be at least {MIN_CHUNK_S} s, not {chunk:g}")
        pair = stride_length_s if isinstance(stride_length_s, (tuple, list)) else (stride_length_s or 0,) * 2
        if len(pair) != 2:
            raise UsageError(f"stride_length_s must be one number or a pair (left, right), not {stride_length_s!r}")
        left, right = (_seconds("stride_length_s", value) for value in pair)
        if chunk - left - right < MIN_HOP_S:
            raise UsageError(
                f"stride_length_s is the context on each side of a window: {left:g} s + {right:g} s leave nothing to "
                f"score of chunk_length_s = {chunk:g} s. For windows that start every {chunk / 2:g} s, give "
                f"{chunk / 4:g}"
            )
        return cls(chunk, left, right)


@dataclass(frozen=True)
class ScoredStretch:
    """What the model hears, and the part of the recording that its score stands for.

    Attributes:
        samples: `(samples,)`, mono float32, context included.
        heard_from_s: Start of `samples`, in seconds from the start of the recording.
        start_s: Start of the stretch that is scored, in seconds from the start of the recording.
        end_s: End of that stretch in seconds.
        is_last: Whether the recording ends here.
    """

    samples: npt.NDArray[np.float32]
    heard_from_s: float
    start_s: float
    end_s: float
    is_last: bool


def scored_stretches(
    windows: Iterable[AudioWindow], chunking: Chunking, *, sampling_rate: int
) -> Iterator[ScoredStretch]:
    """Divide a recording among its windows; holds two windows at a time.

    A last window that is shorter than the others is filled up on its left with what came before, which counts as
    context: a rest of some milliseconds would be unlike anything that the model was trained on.

    Args:
        windows: Windows `chunking.chunk_s` long and `chunking.hop_s` apart, in order of time.
        chunking: The settings with which the windows were cut.
        sampling_rate: Of the windows, in Hz.

    Yields:
        Stretches in order of time; each starts where the one before ended.
    """
    scored_until = 0.0
    previous: AudioWindow | None = None
    for window in windows:
        if previous is not None:
            end = previous.end_s - chunking.right_s
            yield ScoredStretch(previous.samples, previous.start_s, scored_until, end, is_last=False)
            scored_until = end
            window = _fill_on_the_left(window, previous, sampling_rate)
        previous = window
    if previous is not None:
        yield ScoredStretch(previous.samples, previous.start_s, scored_until, previous.end_s, is_last=True)


def steps_within(
    scores: torch.Tensor, seconds_per_step: float, heard_from_s: float, start_s: float, end_s: float
) -> Iterator[tuple[tuple[float, float], torch.Tensor]]:
    """Place the time steps of a window in the recording and cut them to the stretch that the window speaks for.

    Args:
        scores: `(steps, labels)`.
        seconds_per_step: Length of a step.
        heard_from_s: Where the first step starts, in seconds from the start of the recording.
        start_s: Start of the stretch.
        end_s: End of the stretch.

    Yields:
        `(start, end)` in seconds and the scores `(labels,)` of each step that lies in the stretch, in part at least.
    """
    for step, row in enumerate(scores):
        start = max(heard_from_s + step * seconds_per_step, start_s)
        end = min(heard_from_s + (step + 1) * seconds_per_step, end_s)
        if end - start > 1e-6:
            yield (start, end), row


def average_over_time(scores: torch.Tensor, durations_s: list[float]) -> torch.Tensor:
    """Average scores with one weight per second.

    Args:
        scores: `(windows, labels)`.
        durations_s: Seconds that each window speaks for.

    Returns:
        `(labels,)`.
    """
    seconds = torch.tensor(durations_s, dtype=torch.float64)
    return ((seconds / seconds.sum())[:, None] * scores).sum(dim=0)


def _fill_on_the_left(window: AudioWindow, previous: AudioWindow, sampling_rate: int) -> AudioWindow:
    missing = len(previous.samples) - len(window.samples)
    if missing <= 0:
        return window
    start = round((window.start_s - previous.start_s) * sampling_rate)
    context = previous.samples[max(0, start - missing) : start]
    samples = np.concatenate((context, window.samples))
    return AudioWindow(samples, window.end_s - len(samples) / sampling_rate, window.end_s)


def _seconds(name: str, value: Any) -> float:
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise UsageError(f"{name} must be a number of seconds, 0 or more, not {value!r}")
    return float(value)
