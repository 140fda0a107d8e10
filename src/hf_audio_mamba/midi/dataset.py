"""A data set of pieces, found, encoded and described."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HOME

from hf_audio_mamba.midi.encoding import EncodedPiece, encode_pieces, keep_readable
from hf_audio_mamba.midi.pieces import SPLITS, PieceSplits, find_pieces
from hf_audio_mamba.midi.tokenizer import NOTE_TYPES


@dataclass(frozen=True)
class MidiDataset:
    """Encoded pieces of each split.

    Attributes:
        name: Of the data set.
        origin: Where the splits come from, in one clause.
        names: Names of the pieces of each split.
        pieces: Their tokens, in the same order.
        skipped: Number of pieces that could not be read.
    """

    name: str
    origin: str
    names: Mapping[str, list[str]] = field(repr=False)
    pieces: Mapping[str, list[EncodedPiece]] = field(repr=False)
    skipped: int

    def num_tokens(self, split: str) -> int:
        """Tokens of a split, BOS and EOS of each piece included."""
        return sum(int(piece.num_ids.sum()) + 2 for piece in self.pieces[split])


def default_cache_dir() -> Path:
    """Where tokens are kept unless a folder is given: below the cache of Hugging Face."""
    return Path(HF_HOME) / "hf_audio_mamba" / "midi"


def load_midi_dataset(
    data: "PieceSplits | str | os.PathLike[str]",
    tokenizer: Any,
    *,
    splits: Sequence[str] = SPLITS,
    cache_dir: str | os.PathLike[str] | None = None,
    num_workers: int = 1,
    max_corrupt_fraction: float = 0.01,
    progress: bool = False,
) -> MidiDataset:
    """Encode each piece once, or take it from the cache.

    Args:
        data: A folder as `find_pieces` knows them, or what that has found.
        tokenizer: A `MidiTokenizer`.
        splits: The splits to encode.
        cache_dir: Folder of the cache; None keeps nothing on disk.
        num_workers: Processes at most.
        max_corrupt_fraction: Part of a split's pieces that may be unreadable; a warning tells them.
        progress: Show a bar on a terminal.

    Raises:
        DataError: As `find_pieces` does, or if more pieces cannot be read.
        OutputError: If the cache cannot be written.
    """
    found = data if isinstance(data, PieceSplits) else find_pieces(data)
    names: dict[str, list[str]] = {}
    encoded: dict[str, list[EncodedPiece]] = {}
    for split in splits:
        pieces = found.pieces[split]
        results = encode_pieces(
            tokenizer,
            [piece.source for piece in pieces],
            cache_dir=cache_dir,
            num_workers=num_workers,
            progress=progress,
            description=split,
        )
        read = keep_readable(results, [piece.name for piece in pieces], max_fraction=max_corrupt_fraction)
        names[split], encoded[split] = [name for name, _ in read], [piece for _, piece in read]
    skipped = sum(len(found.pieces[split]) - len(encoded[split]) for split in splits)
    return MidiDataset(found.name, found.origin, names, encoded, skipped)


def piece_ids(piece: EncodedPiece, tokenizer: Any) -> list[int]:
    """Ids of a piece from BOS to EOS."""
    words = tokenizer.merge_words(piece.words())
    return [tokenizer.bos_token_id, *(number for word in words for number in word), tokenizer.eos_token_id]


def count_notes(pieces: Sequence[EncodedPiece], tokenizer: Any) -> int:
    """Notes in the tokens of pieces."""
    notes = {number for name, number in tokenizer.miditok.vocab.items() if name.partition("_")[0] in NOTE_TYPES}
    return sum(number in notes for piece in pieces for number in piece.base_ids.tolist())
