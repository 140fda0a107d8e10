"""Training windows from encoded pieces: packed, with another beginning each epoch, transposed on the fly.

Merges depend on pitches, so a transposed window is made of base tokens and merged anew; that costs well under a
millisecond, and the pieces themselves are encoded once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from hf_audio_mamba.errors import DataError, UsageError
from hf_audio_mamba.midi.encoding import EncodedPiece

MAX_TRANSPOSITION = 12
IGNORED_LABEL = -100
_PITCH_TYPES = ("Pitch", "NoteOn", "NoteOff")
_SPARE_IDS = 32


class TokenWindows(Dataset[dict[str, torch.Tensor]]):
    """Windows of equal length over pieces laid end to end, each `BOS ... EOS`.

    Neighbouring windows share one token, so that as labels (which models shift) every token after the first is counted
    once. With `training`, an epoch's windows begin at a random offset and wrap around at the end of the last piece, and
    each window may be transposed and played louder or softer; all of it is a function of (seed, epoch, index). Without,
    windows tile the pieces from the first token on and the last one may be shorter.

    Args:
        pieces: Their tokens.
        tokenizer: The `MidiTokenizer` that gave them.
        context_length: Tokens of a window.
        training: Whether to draw offsets and to augment.
        transpose: Semitones up or down at most, from 0 to 12. Windows at the end of the range move less.
        velocity: Velocity bins up or down at most, clipped at both ends.
        seed: Of offsets and augmentation.

    Raises:
        DataError: If there are too few tokens for one training window.
        UsageError: If a setting is out of range.
    """

    def __init__(
        self,
        pieces: Sequence[EncodedPiece],
        tokenizer: Any,
        context_length: int,
        *,
        training: bool = False,
        transpose: int = 0,
        velocity: int = 0,
        seed: int = 0,
    ) -> None:
        if context_length < 2:
            raise UsageError(f"context_length is {context_length}; it must be at least 2.")
        if not 0 <= transpose <= MAX_TRANSPOSITION or not 0 <= velocity < 127:
            raise UsageError(
                f"transpose is {transpose} and velocity {velocity}; they must be from 0 to {MAX_TRANSPOSITION} and 126."
            )
        self._tokenizer = tokenizer
        self._stride = context_length - 1
        self._training = training
        self._seed, self._epoch = seed, 0
        self._base_ids, self._word_begins, self._id_ends = _lay_end_to_end(pieces, tokenizer)
        self._shifts = _Shifts(tokenizer.miditok.vocab, transpose, velocity) if training else None
        if training and self.num_tokens <= self._stride:
            raise DataError(
                f"The training pieces have {self.num_tokens} tokens together, too few for one window of "
                f"{context_length}. Use more of them or a smaller context_length."
            )

    @property
    def num_tokens(self) -> int:
        """Tokens of all pieces, BOS and EOS included, as they are without augmentation."""
        return int(self._id_ends[-1])

    def set_epoch(self, epoch: int) -> None:
        """Choose the offset and the augmentation of an epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        targets = self.num_tokens - 1
        return targets // self._stride if self._training else -(-targets // self._stride)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One window, `input_ids` of shape `(context_length,)`; the last one of an evaluation may be shorter."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        begin = index * self._stride
        if not self._training:
            return {"input_ids": torch.tensor(self._ids(begin, min(begin + self._stride + 1, self.num_tokens), None))}
        begin += int(np.random.default_rng((self._seed, self._epoch)).integers(self._stride))
        ids = self._ids(begin, begin + self._stride + 1, (self._seed, self._epoch, index))
        return {"input_ids": torch.tensor(ids)}

    def _ids(self, begin: int, end: int, draw: tuple[int, int, int] | None) -> list[int]:
        """Ids from one position of the unaugmented stream on, as many as there are to another; wraps around."""
        count, begin = end - begin, begin % self.num_tokens
        first = int(np.searchsorted(self._id_ends, begin, side="right"))
        skipped = begin - (int(self._id_ends[first - 1]) if first else 0)
        # Transposed words may merge into fewer ids; then more words are needed.
        spare = 0 if draw is None else count // 8 + _SPARE_IDS
        while True:
            words = self._words(first, skipped + count + spare)
            if draw is not None and self._shifts is not None:
                words = self._shifts.apply(words, np.random.default_rng(draw))
            ids = [number for word in self._tokenizer.merge_words(words) for number in word]
            if len(ids) >= skipped + count:
                return ids[skipped : skipped + count]
            spare += count

    def _words(self, first: int, least: int) -> list[NDArray[np.int32]]:
        """Words from one on, with at least so many ids together, beginning anew after the last."""
        words: list[NDArray[np.int32]] = []
        total, word = 0, first
        while total < least:
            words.append(self._base_ids[self._word_begins[word] : self._word_begins[word + 1]])
            total += int(self._id_ends[word] - (self._id_ends[word - 1] if word else 0))
            word = (word + 1) % len(self._id_ends)
        return words


def _lay_end_to_end(
    pieces: Sequence[EncodedPiece], tokenizer: Any
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Base ids of all pieces with BOS and EOS as words; where each word begins; where its merged ids end."""
    bos, eos = (np.array([number], dtype=np.int32) for number in (tokenizer.bos_token_id, tokenizer.eos_token_id))
    one = np.ones(1, dtype=np.int32)
    ids = [part for piece in pieces for part in (bos, piece.base_ids, eos)]
    lengths = [part for piece in pieces for part in (one, piece.word_lengths, one)]
    counts = [part for piece in pieces for part in (one, piece.num_ids, one)]
    if not pieces:
        raise DataError("There are no pieces to cut windows from.")
    begins = np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)])
    return np.concatenate(ids), begins, np.cumsum(np.concatenate(counts), dtype=np.int64)


class _Shifts:
    """Tables from base id to base id, for each transposition and each change of velocity."""

    def __init__(self, vocabulary: Mapping[str, int], transpose: int, velocity: int) -> None:
        self._transpose, self._velocity = transpose, velocity
        names = sorted(vocabulary, key=vocabulary.__getitem__)
        kinds = [name.partition("_") for name in names]
        self._pitches = np.array([int(value) if kind in _PITCH_TYPES else -1 for kind, _, value in kinds])
        self._range = (
            (int(self._pitches[self._pitches >= 0].min()), int(self._pitches.max())) if transpose else (0, 127)
        )
        self._pitch_tables = {
            shift: np.array(
                [
                    vocabulary.get(f"{kind}_{int(value) + shift}", number) if kind in _PITCH_TYPES else number
                    for number, (kind, _, value) in enumerate(kinds)
                ]
            )
            for shift in range(-transpose, transpose + 1)
        }
        louder = np.array([number for number, (kind, _, _) in enumerate(kinds) if kind == "Velocity"])
        self._velocity_tables = {
            shift: self._velocity_table(len(names), louder, shift) for shift in range(-velocity, velocity + 1)
        }

    @staticmethod
    def _velocity_table(size: int, velocities: NDArray[Any], shift: int) -> NDArray[Any]:
        table = np.arange(size)
        if len(velocities):
            table[velocities] = velocities[np.clip(np.arange(len(velocities)) + shift, 0, len(velocities) - 1)]
        return table

    def apply(self, words: Sequence[NDArray[np.int32]], generator: np.random.Generator) -> list[NDArray[Any]]:
        """Shift all words of a window alike."""
        shift = int(generator.integers(-self._transpose, self._transpose + 1))
        louder = int(generator.integers(-self._velocity, self._velocity + 1))
        pitches = self._pitches[np.concatenate(words)]
        pitches = pitches[pitches >= 0]
        if shift and len(pitches):
            low, high = self._range
            shift = int(np.clip(shift, low - pitches.min(), high - pitches.max()))
        table = self._velocity_tables[louder][self._pitch_tables[shift]]
        return [table[word] for word in words]


class WindowCollator:
    """Batches of windows: `input_ids` and `labels` of shape `(batch, length)`, which models of Transformers shift.

    Shorter windows are padded on the right; padding has no label, and stands after everything it could disturb.

    Args:
        pad_token_id: Id to pad with.
    """

    def __init__(self, pad_token_id: int) -> None:
        self._pad = pad_token_id

    def __call__(self, windows: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Join windows."""
        rows = [window["input_ids"] for window in windows]
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            "input_ids": pad(rows, batch_first=True, padding_value=self._pad),
            "labels": pad(rows, batch_first=True, padding_value=IGNORED_LABEL),
        }
