"""Learning the merges of byte pair encoding from a set of files."""

import logging
import os
from collections.abc import Iterable
from typing import Any

from hf_audio_mamba.errors import DataError, UsageError
from hf_audio_mamba.midi.encoding import encode_pieces, keep_readable
from hf_audio_mamba.midi.vocabulary import with_merges

logger = logging.getLogger(__name__)


def learn_merges(
    tokenizer: Any,
    files: Iterable[str | os.PathLike[str] | bytes],
    vocab_size: int,
    *,
    num_workers: int = 1,
    progress: bool = False,
) -> Any:
    """A MidiTok tokenizer like an untrained `MidiTokenizer`'s, with merges; arguments are those of its `train`.

    Raises:
        UsageError: If `vocab_size` leaves no room for merges.
        DataError: If no file could be read.
    """
    base_size = len(tokenizer.miditok)
    if vocab_size <= base_size:
        raise UsageError(
            f"vocab_size is {vocab_size}, but the base tokens alone are {base_size}. Ask for more, for a coarser "
            "beat_resolution or fewer num_velocities, or for None: no merges."
        )
    sources = list(files)
    if not sources:
        raise DataError("There are no files to learn merges from.")
    names = ["MIDI data" if isinstance(source, bytes) else os.fspath(source) for source in sources]
    pieces = encode_pieces(tokenizer, sources, num_workers=num_workers, progress=progress)
    read = [piece.words() for _, piece in keep_readable(pieces, names, max_fraction=1.0)]
    miditok = with_merges(tokenizer.miditok, read, vocab_size)
    if len(miditok) < vocab_size:
        logger.warning(
            "The files hold only %d different merges: the vocabulary has %d ids, not %d.",
            len(miditok) - base_size,
            len(miditok),
            vocab_size,
        )
    return miditok
