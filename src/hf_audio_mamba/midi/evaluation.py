"""Evaluation of a model of symbolic music: what held-out pieces cost, and what generated music is like.

Everything that is compared passes through the tokenizer first, held-out music too, so that all of it lies on one grid
of time and velocity. Figures of different grids do not compare (see `hf_audio_mamba.metrics.likelihood`), which
`check_equal_grids` refuses.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_audio_mamba._optional import require
from hf_audio_mamba.errors import DataError, MidiError, UsageError
from hf_audio_mamba.metrics import (
    PositionBin,
    copy_scores,
    grammar_errors,
    histogram_scores,
    likelihood_scores,
    loss_by_position,
    note_histograms,
)
from hf_audio_mamba.metrics.note_copies import LENGTHS
from hf_audio_mamba.midi.files import MIDI_SUFFIXES, read_midi
from hf_audio_mamba.midi.pieces import Piece
from hf_audio_mamba.midi.score_notes import music_seconds, note_array
from hf_audio_mamba.midi.scoring import DEFAULT_PART, ScoringContext, scoring_context, token_nats

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_audio_mamba.midi.tokenizer import MidiTokenizer

Array = NDArray[Any]

IDS_SUFFIX = ".json"
_MAX_IDS_BYTES = 256 << 20


@dataclass(frozen=True)
class TokenizedPiece:
    """A piece as a tokenizer has it.

    Attributes:
        name: Where it comes from.
        ids: Its ids, BOS and EOS among them where it was read from MIDI.
        notes: The notes that the ids stand for, `(notes, 4)`: onset in s, pitch, duration in s, velocity.
        seconds: From 0 to the end of its last note, in the file where there is one.
    """

    name: str
    ids: list[int]
    notes: Array
    seconds: float


@dataclass(frozen=True)
class ModelScores:
    """What held-out pieces cost a model.

    Attributes:
        scores: Over all pieces, as `likelihood_scores` gives them.
        pieces: For each piece its name and the same scores.
        positions: Loss against position over all pieces.
        long_positions: The same over the pieces alone that have at least the median number of tokens, so that the bins
            up to there are all of the same pieces.
        context: How much of a piece each token was predicted from.
    """

    scores: dict[str, float]
    pieces: list[dict[str, Any]]
    positions: list[PositionBin]
    long_positions: list[PositionBin]
    context: ScoringContext


def read_pieces(
    tokenizer: "MidiTokenizer", sources: Iterable[str | os.PathLike[str] | Piece], *, progress: bool = False
) -> list[TokenizedPiece]:
    """Read pieces from MIDI files, or ids from JSON files, in the order given.

    Args:
        tokenizer: Turns MIDI into ids, and these into the notes that count.
        sources: MIDI files, or pieces of `find_pieces`; or JSON files of generated ids: a list of ids, a list of such
            lists, or an object with one of them under `"ids"` (as MidiTok's `save_tokens` writes it).
        progress: Show a bar on a terminal.

    Raises:
        MidiError: If a MIDI file cannot be used, or an id is not in the vocabulary; the message names the file.
        DataError: If a JSON file does not hold ids.
    """
    pieces: list[TokenizedPiece] = []
    for source in _shown(list(sources), "reading", progress):
        if isinstance(source, Piece):
            pieces.append(_piece_of_midi(tokenizer, source.name, source.source))
        elif Path(source).suffix.lower() == IDS_SUFFIX:
            pieces += _pieces_of_ids(tokenizer, Path(source))
        else:
            pieces.append(_piece_of_midi(tokenizer, str(source), Path(source)))
    return pieces


def find_music(inputs: Sequence[str | os.PathLike[str]], *, ids: bool = False) -> list[Path]:
    """Files as given, folders by the MIDI files in them at any depth, sorted; each once.

    Args:
        inputs: Paths of files and folders.
        ids: Whether JSON files of ids in folders count too.

    Raises:
        DataError: If a path does not exist or a folder holds no such file.
    """
    suffixes = (*MIDI_SUFFIXES, IDS_SUFFIX) if ids else MIDI_SUFFIXES
    found: dict[Path, None] = {}
    for path in map(Path, inputs):
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
            if not files:
                raise DataError(f"{path} holds no files that end in {', '.join(suffixes)}")
            found |= dict.fromkeys(files)
        elif path.exists():
            found[path] = None
        else:
            raise DataError(f"{path} does not exist")
    return list(found)


def evaluate_model(
    model: "PreTrainedModel",
    pieces: Sequence[TokenizedPiece],
    *,
    window: int | None = None,
    stride: int | None = None,
    part: int = DEFAULT_PART,
    progress: bool = False,
) -> ModelScores:
    """Score held-out pieces by a causal language model.

    Args:
        model: Causal language model over the ids of the pieces' tokenizer.
        pieces: Whole pieces with BOS and EOS, as `read_pieces` gives them for MIDI files.
        window: As for `scoring_context`.
        stride: As for `scoring_context`.
        part: As for `token_nats`.
        progress: Show a bar on a terminal.

    Raises:
        DataError: If there are no pieces, or their ids are not the model's.
        UsageError: If window, stride or part is out of range.
        CheckpointError: If the model gives scores that are not finite.
    """
    if not pieces:
        raise DataError("there are no pieces to score")
    context = scoring_context(model, window=window, stride=stride)
    nats = [token_nats(model, piece.ids, context, part=part) for piece in _shown(pieces, "scoring", progress)]
    notes, seconds = [len(piece.notes) for piece in pieces], [piece.seconds for piece in pieces]
    rows = []
    for piece, losses, count, length in zip(pieces, nats, notes, seconds, strict=True):
        rows.append({"name": piece.name, **likelihood_scores([losses], [count], [length])})
    median = int(np.median([len(losses) for losses in nats]))
    return ModelScores(
        likelihood_scores(nats, notes, seconds),
        rows,
        loss_by_position(nats),
        loss_by_position(nats, min_tokens=median),
        context,
    )


def describe_music(
    pieces: Sequence[TokenizedPiece],
    *,
    tokenizer: "MidiTokenizer",
    held_out: Sequence[TokenizedPiece] | None = None,
    training: Sequence[TokenizedPiece] | None = None,
    copy_lengths: Sequence[int] = LENGTHS,
) -> dict[str, float]:
    """Grammar, note histograms and copies of some music.

    Args:
        pieces: The music.
        tokenizer: Tokenizer of its ids.
        held_out: Music whose histograms it is compared with; None leaves them out.
        training: Music from which it may be copied; None leaves copies out.
        copy_lengths: Numbers of notes in an n-gram.

    Returns:
        `pieces`, `empty_pieces` (without a note), `notes`, `seconds`, `grammar_error_rate`, and what
        `NoteHistogramSimilarity` and `NoteCopyRate` of `hf_audio_mamba.metrics` give.

    Raises:
        DataError: If the held-out or the training music has no notes.
        UsageError: If a copy length is below 2.
    """
    counts = [grammar_errors(tokenizer.miditok, piece.ids) for piece in pieces]
    judged = sum(count for _, count in counts)
    result: dict[str, float] = {
        "pieces": len(pieces),
        "empty_pieces": sum(len(piece.notes) == 0 for piece in pieces),
        "notes": sum(len(piece.notes) for piece in pieces),
        "seconds": sum(piece.seconds for piece in pieces),
        "grammar_error_rate": sum(errors for errors, _ in counts) / judged if judged else math.nan,
    }
    notes = [piece.notes for piece in pieces]
    if held_out is not None:
        reference = note_histograms([piece.notes for piece in held_out])
        if not reference["velocity"].any():
            raise DataError("the held-out music has no notes to compare with")
        result |= histogram_scores(note_histograms(notes), reference)
    if training is not None:
        result |= copy_scores(notes, [piece.notes for piece in training], lengths=copy_lengths)
    return result


def music_grid(tokenizer: "MidiTokenizer") -> dict[str, Any]:
    """What a tokenizer can tell apart: steps in a beat, velocities, pitches; its base tokens by number and digest."""
    miditok = tokenizer.miditok
    config = miditok.config
    return {
        "tokenization": type(miditok).__name__,
        "beat_resolution": {f"{start}-{stop}": steps for (start, stop), steps in sorted(config.beat_res.items())},
        "num_velocities": int(config.num_velocities),
        "pitch_range": list(config.pitch_range),
        "base_tokens": len(miditok.vocab),
        "base_tokens_sha256": hashlib.sha256("\n".join(sorted(miditok.vocab)).encode()).hexdigest(),
    }


def check_equal_grids(grids: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Refuse to compare figures of different grids.

    Args:
        grids: As `music_grid` gives them.
        names: What each is called, for the message.

    Raises:
        UsageError: If two differ.
    """
    for grid, name in zip(grids, names, strict=True):
        differing = [key for key in grids[0] if grid[key] != grids[0][key]]
        if differing:
            raise UsageError(
                f"{names[0]} and {name} have tokenizers that differ in {', '.join(differing)}; bits per note of "
                "different grids do not compare, so evaluate them apart"
            )


def _shown(items: Sequence[Any], verb: str, progress: bool) -> Iterable[Any]:
    if not progress:
        return items
    tqdm = require("tqdm", extra="train", purpose="showing progress").tqdm
    bar: Iterable[Any] = tqdm(items, desc=verb, unit="piece", disable=None, leave=False)
    return bar


def _piece_of_midi(tokenizer: "MidiTokenizer", name: str, source: Path | bytes) -> TokenizedPiece:
    try:
        score = read_midi(source)
        ids = tokenizer.encode_midi(score, add_special_tokens=True)
    except MidiError as error:
        raise MidiError(f"{name}: {error}") from error
    return TokenizedPiece(name, ids, note_array(tokenizer.decode_midi(ids)), music_seconds(score))


def _pieces_of_ids(tokenizer: "MidiTokenizer", path: Path) -> list[TokenizedPiece]:
    sequences = _read_ids(path)
    pieces = []
    for index, ids in enumerate(sequences):
        name = str(path) if len(sequences) == 1 else f"{path}[{index}]"
        try:
            score = tokenizer.decode_midi(ids)
        except MidiError as error:
            raise MidiError(f"{name}: {error}") from error
        pieces.append(TokenizedPiece(name, ids, note_array(score), music_seconds(score)))
    return pieces


def _read_ids(path: Path) -> list[list[int]]:
    try:
        if path.stat().st_size > _MAX_IDS_BYTES:
            raise DataError(f"{path} has more than the {_MAX_IDS_BYTES:,} bytes that are accepted")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if isinstance(content, dict):
        content = content.get("ids")
    sequences = content if isinstance(content, list) and any(isinstance(row, list) for row in content) else [content]
    if not all(isinstance(row, list) and all(type(i) is int for i in row) for row in sequences):
        raise DataError(f'{path} holds no ids; it takes a list of whole numbers, a list of such lists, or {{"ids": …}}')
    return sequences
