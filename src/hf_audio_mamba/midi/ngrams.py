"""The floor under every sequence model of music: n-grams with Witten-Bell smoothing.

Witten and Bell, "The zero-frequency problem" (1991), method C, interpolated as in Chen and Goodman (1998), section 2.4:
`p(w | h) = (c(h w) + t(h) p(w | h')) / (c(h) + t(h))` with `c` the counts in the training pieces, `t(h)` the number of
different tokens seen after `h`, and `h'` the history without its oldest token; below the unigram is the uniform
distribution. A history never seen passes on the shorter one's distribution. Before BOS stand as many further BOS as the
history needs; BOS itself is never predicted, EOS is.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_audio_mamba.errors import DataError, UsageError

MAX_ORDER = 8


class WittenBell:
    """An n-gram model of token sequences.

    Args:
        order: Tokens of the longest n-gram, 1 for the unigram.
        vocab_size: Number of ids.

    Raises:
        UsageError: If n-grams of this order over this vocabulary cannot be numbered in 63 bits.
    """

    def __init__(self, order: int, vocab_size: int) -> None:
        if not 1 <= order <= MAX_ORDER or vocab_size < 1:
            raise UsageError(f"order is {order}; it must be from 1 to {MAX_ORDER}, and vocab_size positive.")
        if order * math.log2(vocab_size) >= 63:
            raise UsageError(f"n-grams of order {order} over {vocab_size} ids are too many; use a smaller order.")
        self.order = order
        self.vocab_size = vocab_size
        self._tables: list[_Counts] = []

    def fit(self, pieces: Iterable[Sequence[int]]) -> "WittenBell":
        """Count the n-grams of pieces, each from BOS to EOS.

        Raises:
            DataError: If there is nothing to count.
        """
        histories, targets = self._split(pieces)
        if not len(targets):
            raise DataError("The training pieces have no tokens; n-grams have nothing to count.")
        self._tables = [
            _Counts.of(histories[:, histories.shape[1] - length :], targets, self.vocab_size)
            for length in range(self.order)
        ]
        return self

    def nats(self, pieces: Iterable[Sequence[int]]) -> NDArray[np.float64]:
        """Negative natural logarithm of the probability of each token, for every order up to this one.

        Args:
            pieces: Each from BOS to EOS.

        Returns:
            Shape `(order, tokens)`, row 0 for the unigram; every token but BOS, piece after piece.

        Raises:
            UsageError: Before `fit`.
        """
        if not self._tables:
            raise UsageError("Call fit before nats.")
        histories, targets = self._split(pieces)
        probability = np.full(len(targets), 1 / self.vocab_size)
        rows = []
        for length, table in enumerate(self._tables):
            probability = table.interpolate(histories[:, histories.shape[1] - length :], targets, probability)
            rows.append(-np.log(probability))
        return np.stack(rows)

    def _split(self, pieces: Iterable[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Histories `(tokens, order - 1)` and the tokens after them."""
        length = self.order - 1
        histories, targets = [np.zeros((0, length), dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for piece in pieces:
            ids = np.asarray(piece, dtype=np.int64)
            if len(ids) < 2:
                continue
            if ids.min() < 0 or ids.max() >= self.vocab_size:
                raise DataError(f"A piece has ids outside of the vocabulary of {self.vocab_size}.")
            padded = np.concatenate([np.full(max(length - 1, 0), ids[0]), ids])
            count = len(ids) - 1
            begin = len(padded) - count
            columns = [padded[begin - back : begin - back + count] for back in range(length, 0, -1)]
            histories.append(np.stack(columns, axis=1) if columns else np.zeros((count, 0), dtype=np.int64))
            targets.append(ids[1:])
        return np.concatenate(histories), np.concatenate(targets)


@dataclass(frozen=True)
class _Counts:
    """Counts after histories of one length; each history and each n-gram is one number."""

    vocab_size: int
    ngrams: NDArray[np.int64]
    ngram_counts: NDArray[np.int64]
    histories: NDArray[np.int64]
    history_counts: NDArray[np.int64]
    types: NDArray[np.int64]

    @classmethod
    def of(cls, histories: NDArray[np.int64], targets: NDArray[np.int64], vocab_size: int) -> "_Counts":
        keys = _keys(histories, vocab_size)
        ngrams, ngram_counts = np.unique(keys * vocab_size + targets, return_counts=True)
        found, inverse, types = np.unique(ngrams // vocab_size, return_inverse=True, return_counts=True)
        totals = np.bincount(inverse, weights=ngram_counts).astype(np.int64)
        return cls(vocab_size, ngrams, ngram_counts, found, totals, types)

    def interpolate(
        self, histories: NDArray[np.int64], targets: NDArray[np.int64], lower: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        keys = _keys(histories, self.vocab_size)
        count = _look_up(self.ngrams, self.ngram_counts, keys * self.vocab_size + targets)
        total = _look_up(self.histories, self.history_counts, keys)
        types = _look_up(self.histories, self.types, keys)
        seen = total > 0
        return np.where(seen, (count + types * lower) / np.where(seen, total + types, 1), lower)


def _keys(histories: NDArray[np.int64], vocab_size: int) -> NDArray[np.int64]:
    keys = np.zeros(len(histories), dtype=np.int64)
    for column in histories.T:
        keys = keys * vocab_size + column
    return keys


def _look_up(keys: NDArray[np.int64], values: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
