"""Many pieces into tokens: each once, side by side in processes, and kept on disk between runs.

MidiTok's work is Python, which threads cannot share. A cache file is named after the content of the piece and lives in
a folder named after the tokenizer, so it can never be stale.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_audio_mamba._optional import require
from hf_audio_mamba.errors import DataError, HFAudioMambaError, MidiError, OutputError
from hf_audio_mamba.midi.files import read_bytes

logger = logging.getLogger(__name__)

# Raise when the same tokenizer gives other ids, so that files of an older version are left alone.
CACHE_FORMAT = 1
_NAMED_IN_MESSAGES = 5
# Below this, starting processes (each imports transformers) takes longer than the work.
_MIN_PIECES_PER_WORKER = 32

Source = str | os.PathLike[str] | bytes


@dataclass(frozen=True)
class EncodedPiece:
    """Tokens of a piece.

    Attributes:
        base_ids: Base ids of all words, `(base tokens,)`.
        word_lengths: Base ids of each word, `(words,)`.
        num_ids: Ids of each word after merges, `(words,)`.
    """

    base_ids: NDArray[np.int32]
    word_lengths: NDArray[np.int32]
    num_ids: NDArray[np.int32]

    def words(self) -> list[list[int]]:
        """Base ids, word by word."""
        parts = np.split(self.base_ids, np.cumsum(self.word_lengths)[:-1])
        return [part.tolist() for part in parts]


def encode_piece(tokenizer: Any, source: Source) -> EncodedPiece | str:
    """Tokens of one piece, or why it has none."""
    try:
        words = tokenizer.encode_words(source)
    except MidiError as error:
        return str(error)
    flat = [number for word in words for number in word]
    merged = [len(word) for word in tokenizer.merge_words(words)]
    lengths = [len(word) for word in words]
    return EncodedPiece(*(np.array(values, dtype=np.int32) for values in (flat, lengths, merged)))


def encode_pieces(
    tokenizer: Any,
    sources: Sequence[Source],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    num_workers: int = 1,
    progress: bool = False,
    description: str = "tokens",
) -> list[EncodedPiece | str]:
    """Tokens of pieces, from the cache where they are there.

    Args:
        tokenizer: A `MidiTokenizer`.
        sources: Paths of MIDI files, or what they hold.
        cache_dir: Folder of the cache, made if need be; None keeps nothing on disk.
        num_workers: Processes at most; few pieces are encoded in this one.
        progress: Show a bar on a terminal.
        description: What stands before the bar.

    Returns:
        For each source its tokens, or why it could not be read.

    Raises:
        HFAudioMambaError: If a process died.
        OutputError: If the cache cannot be written.
    """
    results: dict[int, EncodedPiece | str] = {}
    paths: dict[int, Path] = {}
    if cache_dir is not None:
        folder = _tokenizer_folder(Path(cache_dir), tokenizer)
        for index, source in enumerate(sources):
            try:
                content = source if isinstance(source, bytes) else read_bytes(source)
            except MidiError as error:
                results[index] = str(error)
                continue
            paths[index] = folder / f"{hashlib.blake2b(content, digest_size=16).hexdigest()}.npz"
            if (kept := _read_cached(paths[index])) is not None:
                results[index] = kept
    missing = [index for index in range(len(sources)) if index not in results]
    workers = min(num_workers, len(missing) // _MIN_PIECES_PER_WORKER)
    with _mapped(tokenizer, [sources[index] for index in missing], workers) as encoded:
        if progress:
            tqdm = require("tqdm", extra="train", purpose="showing progress").tqdm
            encoded = tqdm(encoded, total=len(missing), desc=description, unit="piece", disable=None)
        for index, piece in zip(missing, encoded, strict=True):
            results[index] = piece
            if index in paths and not isinstance(piece, str):
                _write_cached(paths[index], piece)
    return [results[index] for index in range(len(sources))]


def keep_readable(
    pieces: Sequence[EncodedPiece | str], names: Sequence[str], *, max_fraction: float
) -> list[tuple[str, EncodedPiece]]:
    """Pieces that could be read, with their names; a warning tells the others.

    Args:
        pieces: As `encode_pieces` gives them.
        names: What messages call them.
        max_fraction: Part of them that may be missing, in [0, 1].

    Raises:
        DataError: If more are missing, or all; names the first few.
    """
    read, reasons = [], []
    for name, piece in zip(names, pieces, strict=True):
        if isinstance(piece, str):
            reasons.append(piece if repr(name) in piece else f"{name}: {piece}")
        else:
            read.append((name, piece))
    if not reasons:
        return read
    more = f" And {len(reasons) - _NAMED_IN_MESSAGES} more." if len(reasons) > _NAMED_IN_MESSAGES else ""
    message = f"{len(reasons)} of {len(pieces)} pieces cannot be read: {' '.join(reasons[:_NAMED_IN_MESSAGES])}{more}"
    if len(reasons) > max_fraction * len(pieces) or not read:
        raise DataError(f"{message} At most {max_fraction:.3g} of all may be left out; repair or remove them.")
    logger.warning("%s", message)
    return read


_kept: list[Any] = []


def _keep(tokenizer: Any) -> None:
    _kept[:] = [tokenizer]


def _encode_with_kept(source: Source) -> EncodedPiece | str:
    return encode_piece(_kept[0], source)


@contextmanager
def _mapped(tokenizer: Any, sources: Sequence[Source], workers: int) -> Iterator[Iterator[EncodedPiece | str]]:
    if workers <= 1:
        yield (encode_piece(tokenizer, source) for source in sources)
        return
    # Forking a process with torch's threads can leave it waiting for a lock that nobody holds.
    pool: Executor = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_keep, initargs=(tokenizer,)
    )
    encode: Callable[[Source], EncodedPiece | str] = _encode_with_kept
    try:
        yield pool.map(encode, sources, chunksize=4)
    except RuntimeError as error:  # BrokenProcessPool
        raise HFAudioMambaError(
            f"A process that encodes MIDI died ({error}), perhaps for want of memory. Use fewer workers."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _tokenizer_folder(cache_dir: Path, tokenizer: Any) -> Path:
    settings = {"cache_format": CACHE_FORMAT, **tokenizer.miditok.to_dict()}
    text = json.dumps(settings, sort_keys=True, default=str)
    folder = cache_dir / hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the cache of tokens {folder}: {error.strerror or error}") from error
    return folder


def _read_cached(path: Path) -> EncodedPiece | None:
    """What a cache file holds; None if it is absent, damaged or not whole."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            piece = EncodedPiece(arrays["base_ids"], arrays["word_lengths"], arrays["num_ids"])
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    whole = len(piece.base_ids) == piece.word_lengths.sum() and len(piece.word_lengths) == len(piece.num_ids)
    return piece if whole else None


def _write_cached(path: Path, piece: EncodedPiece) -> None:
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".tmp", delete=False) as stream:
            temporary = stream.name
            np.savez(stream, base_ids=piece.base_ids, word_lengths=piece.word_lengths, num_ids=piece.num_ids)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise OutputError(f"cannot write the cache of tokens {path}: {error.strerror or error}") from error
