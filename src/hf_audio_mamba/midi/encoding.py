"""Many files into tokens, side by side in processes: MidiTok's own work is Python, which threads cannot share."""

import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hf_audio_mamba._optional import require
from hf_audio_mamba.errors import DataError, HFAudioMambaError, MidiError

logger = logging.getLogger(__name__)

_NAMED_IN_MESSAGES = 5
# Below this, starting processes (each imports transformers) takes longer than the work.
_MIN_PIECES_PER_WORKER = 32


@dataclass(frozen=True)
class EncodedPiece:
    """Base ids of a piece, or why it has none.

    Attributes:
        words: Base ids, word by word.
        num_ids: Ids of each word after merges.
        reason: Why the piece could not be read; empty where it could.
    """

    words: list[list[int]] = field(default_factory=list, repr=False)
    num_ids: list[int] = field(default_factory=list, repr=False)
    reason: str = ""


def encode_piece(tokenizer: Any, source: str | os.PathLike[str] | bytes) -> EncodedPiece:
    """Base ids of one piece; what cannot be read is told, not raised."""
    try:
        words = tokenizer.encode_words(source)
    except MidiError as error:
        return EncodedPiece(reason=str(error))
    return EncodedPiece(words, [len(word) for word in tokenizer.merge_words(words)])


def encode_pieces(
    tokenizer: Any,
    sources: Sequence[str | os.PathLike[str] | bytes],
    *,
    num_workers: int = 1,
    progress: bool = False,
    description: str = "tokens",
) -> list[EncodedPiece]:
    """Base ids of pieces, in their order.

    Args:
        tokenizer: A `MidiTokenizer`.
        sources: Paths of MIDI files, or what they hold.
        num_workers: Processes at most; few pieces are encoded in this one.
        progress: Show a bar on a terminal.
        description: What stands before the bar.

    Raises:
        HFAudioMambaError: If a process died.
    """
    bar = require("tqdm", extra="train", purpose="showing progress").tqdm if progress else None
    workers = min(num_workers, len(sources) // _MIN_PIECES_PER_WORKER)
    with _mapped(tokenizer, sources, workers) as pieces:
        if bar is not None:
            pieces = bar(pieces, total=len(sources), desc=description, unit="piece", disable=None)
        return list(pieces)


@contextmanager
def _mapped(tokenizer: Any, sources: Sequence[Any], workers: int) -> Iterator[Iterator[EncodedPiece]]:
    if workers <= 1:
        yield (encode_piece(tokenizer, source) for source in sources)
        return
    # Forking a process with torch's threads can leave it waiting for a lock that nobody holds.
    pool: Executor = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_keep, initargs=(tokenizer,)
    )
    try:
        yield pool.map(_encode_with_kept, sources, chunksize=4)
    except RuntimeError as error:  # BrokenProcessPool
        raise HFAudioMambaError(
            f"A process that encodes MIDI died ({error}), perhaps for want of memory. Use fewer workers."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_kept: list[Any] = []


def _keep(tokenizer: Any) -> None:
    _kept[:] = [tokenizer]


def _encode_with_kept(source: Any) -> EncodedPiece:
    return encode_piece(_kept[0], source)


def report_skipped(pieces: Sequence[EncodedPiece], *, max_fraction: float) -> None:
    """Warn of pieces that could not be read.

    Args:
        pieces: As `encode_pieces` gives them.
        max_fraction: Part of them that may be missing, in [0, 1].

    Raises:
        DataError: If more are missing, or all; names the first few.
    """
    reasons = [piece.reason for piece in pieces if piece.reason]
    if not reasons:
        return
    more = f" And {len(reasons) - _NAMED_IN_MESSAGES} more." if len(reasons) > _NAMED_IN_MESSAGES else ""
    message = f"{len(reasons)} of {len(pieces)} pieces cannot be read: {' '.join(reasons[:_NAMED_IN_MESSAGES])}{more}"
    if len(reasons) > max_fraction * len(pieces) or len(reasons) == len(pieces):
        raise DataError(f"{message} At most {max_fraction:.3g} of all may be left out; repair or remove them.")
    logger.warning("%s", message)
