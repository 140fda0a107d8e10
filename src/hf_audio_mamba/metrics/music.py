"""The scores of symbolic music as `evaluate.Metric` classes; one entry of `predictions` is a piece.

What a score compares with, a tokenizer or other music, belongs to the metric: it is given once, and has as many pieces
as it likes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import datasets
import evaluate
from numpy.typing import ArrayLike

from hf_audio_mamba.errors import DataError
from hf_audio_mamba.metrics.grammar import grammar_error_rate
from hf_audio_mamba.metrics.histograms import histogram_scores, note_histograms
from hf_audio_mamba.metrics.likelihood import likelihood_scores
from hf_audio_mamba.metrics.note_copies import LENGTHS, copy_scores

if TYPE_CHECKING:
    from miditok import MusicTokenizer

_NOTES = datasets.Sequence(datasets.Sequence(datasets.Value("float64")))
_NOTES_INPUT = "predictions: for each piece its notes, rows of onset (s), pitch, duration (s), velocity"


class MusicLikelihood(evaluate.Metric):
    """`likelihood_scores` as an `evaluate.Metric`: nats per token, bits per note, bits per second.

    `compute(predictions=..., notes=..., seconds=...)`, one entry a piece: -ln p of each token after BOS (what
    `hf_audio_mamba.midi.token_nats` gives), how many notes it has, and how many seconds.
    """

    def _info(self) -> Any:
        columns = {
            "predictions": datasets.Sequence(datasets.Value("float64")),
            "notes": datasets.Value("int64"),
            "seconds": datasets.Value("float64"),
        }
        return _metric_info(
            "Nats per token, bits per note and bits per second of music.",
            "predictions: for each piece -ln p of its tokens after BOS; notes and seconds: how many it has",
            columns,
        )

    def _compute(
        self, predictions: Sequence[ArrayLike], notes: Sequence[int], seconds: Sequence[float]
    ) -> dict[str, float]:
        return likelihood_scores(predictions, notes, seconds)


class GrammarErrorRate(evaluate.Metric):
    """`grammar_error_rate` as an `evaluate.Metric`: `compute(predictions=...)` takes the ids of each piece.

    Args:
        tokenizer: MidiTok tokenizer of the ids.
        **kwargs: As for every `evaluate.Metric`.
    """

    def __init__(self, tokenizer: "MusicTokenizer", **kwargs: Any) -> None:
        self._tokenizer = tokenizer
        super().__init__(**kwargs)

    def _info(self) -> Any:
        return _metric_info(
            "Tokens that break the tokenizer's grammar, per token of its base vocabulary.",
            "predictions: for each piece its ids",
            {"predictions": datasets.Sequence(datasets.Value("int64"))},
        )

    def _compute(self, predictions: Sequence[Sequence[int]]) -> dict[str, float]:
        return {"grammar_error_rate": grammar_error_rate(self._tokenizer, predictions)}


class NoteHistogramSimilarity(evaluate.Metric):
    """Overlap and divergence of note histograms from held-out music, as an `evaluate.Metric`.

    `compute(predictions=...)` takes for each piece its notes `(notes, 4)`. For each name of `HISTOGRAMS` the result has
    `<name>_overlap` (0 to 1, best 1) and `<name>_divergence` (nats, best 0), both NaN where nothing was counted, and
    `notes`, the number of notes judged.

    Args:
        held_out: Notes of the held-out pieces, each `(notes, 4)`.
        **kwargs: As for every `evaluate.Metric`.

    Raises:
        ShapeError: If a piece is not `(notes, 4)`.
        DataError: If the held-out pieces have no notes.
    """

    def __init__(self, held_out: Sequence[ArrayLike], **kwargs: Any) -> None:
        self._references = note_histograms(held_out)
        if not self._references["velocity"].any():
            raise DataError("held_out holds no notes; give the music to compare with")
        super().__init__(**kwargs)

    def _info(self) -> Any:
        return _metric_info("Overlap and divergence of note histograms.", _NOTES_INPUT, {"predictions": _NOTES})

    def _compute(self, predictions: Sequence[ArrayLike]) -> dict[str, float]:
        counted = note_histograms(predictions)
        return {**histogram_scores(counted, self._references), "notes": int(counted["velocity"].sum())}


class NoteCopyRate(evaluate.Metric):
    """`copy_rates` and `longest_copy` from training music as an `evaluate.Metric`.

    `compute(predictions=...)` takes for each piece its notes `(notes, 4)`. For each kind of `KINDS` the result has
    `<kind>_copy_rate_<n>` for every length n, 0 to 1, NaN where no piece is that long, and `<kind>_longest_copy` in
    notes.

    Args:
        training: Notes of the training pieces, each `(notes, 4)`.
        lengths: Numbers of notes in an n-gram, each at least 2.
        **kwargs: As for every `evaluate.Metric`.
    """

    def __init__(self, training: Sequence[ArrayLike], lengths: Sequence[int] = LENGTHS, **kwargs: Any) -> None:
        self._training = training
        self._lengths = lengths
        super().__init__(**kwargs)

    def _info(self) -> Any:
        return _metric_info(
            "Share of n-grams of notes that training music has, and the longest.", _NOTES_INPUT, {"predictions": _NOTES}
        )

    def _compute(self, predictions: Sequence[ArrayLike]) -> dict[str, float]:
        return copy_scores(predictions, self._training, lengths=self._lengths)


def _metric_info(description: str, inputs: str, columns: dict[str, Any]) -> Any:
    return evaluate.MetricInfo(
        description=description, citation="", inputs_description=inputs, features=datasets.Features(columns)
    )
