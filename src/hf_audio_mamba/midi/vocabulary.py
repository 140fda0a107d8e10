"""From settings to a MidiTok tokenizer, from that to a tokenizer of Hugging Face, and back from a file.

MidiTok keeps its own JSON, whose usual name `tokenizer.json` belongs to Hugging Face's format; here it is called
`miditok.json`. Only this module knows what MidiTok's JSON looks like.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from hf_audio_mamba._optional import require
from hf_audio_mamba.errors import CheckpointError, UsageError

MIDITOK_FILE = "miditok.json"

TOKENIZATIONS = ("REMI", "TSD", "MIDILike", "Structured")
"""Tokenizations of MidiTok with one vocabulary and one stream of tokens for a track."""

SPECIAL_TOKENS = ("PAD_None", "BOS_None", "EOS_None")
"""Padding, beginning and end of a piece; their ids are 0, 1 and 2."""

PIANO_RANGE = (21, 108)
"""Lowest and highest MIDI note that has a token."""

MAX_BEAT_RESOLUTION = 96
# MidiTok writes a base token as the character of this number plus its id.
_FIRST_CHARACTER = 33
_MAX_JSON_BYTES = 64 << 20
_LONG_NOTE_QUARTERS, _LONGEST_NOTE_QUARTERS = 4, 12


def new_miditok(
    tokenization: str,
    *,
    beat_resolution: int,
    num_velocities: int,
    use_sustain_pedals: bool,
    use_tempos: bool,
    use_time_signatures: bool,
    use_programs: bool,
) -> Any:
    """An untrained MidiTok tokenizer; the arguments are those of `MidiTokenizer.train`.

    Raises:
        UsageError: If a setting is unknown or out of range.
    """
    if tokenization not in TOKENIZATIONS:
        raise UsageError(f"tokenization {tokenization!r} is none of {', '.join(TOKENIZATIONS)}.")
    if not 1 <= beat_resolution <= MAX_BEAT_RESOLUTION:
        raise UsageError(f"beat_resolution is {beat_resolution}; it must be from 1 to {MAX_BEAT_RESOLUTION}.")
    if not 1 <= num_velocities <= 127:
        raise UsageError(f"num_velocities is {num_velocities}; it must be from 1 to 127.")
    if tokenization == "Structured" and (use_sustain_pedals or use_tempos or use_time_signatures):
        raise UsageError("Structured has no tokens for sustain pedals, tempos or time signatures; use REMI or TSD.")
    miditok = _import_miditok()
    long, longest = _LONG_NOTE_QUARTERS, _LONGEST_NOTE_QUARTERS
    config = miditok.TokenizerConfig(
        pitch_range=PIANO_RANGE,
        beat_res={(0, long): beat_resolution, (long, longest): max(1, beat_resolution // 2)},
        num_velocities=num_velocities,
        special_tokens=[name.partition("_")[0] for name in SPECIAL_TOKENS],
        use_sustain_pedals=use_sustain_pedals,
        use_tempos=use_tempos,
        use_time_signatures=use_time_signatures,
        use_programs=use_programs,
        use_pitchdrum_tokens=use_programs,
        # It also orders the notes of a chord by pitch; otherwise their order is that of the milliseconds lost.
        remove_duplicated_notes=True,
    )
    return getattr(miditok, tokenization)(config)


def save_miditok(miditok: Any, path: str | os.PathLike[str]) -> None:
    """Write MidiTok's JSON, from which `load_miditok` and `miditok.REMI(params=path)` make the same tokenizer."""
    miditok.save(Path(path))


def load_miditok(path: str | os.PathLike[str]) -> Any:
    """Read MidiTok's JSON.

    Raises:
        CheckpointError: If the file is absent, damaged, or of a tokenization that is not in `TOKENIZATIONS`.
    """
    try:
        if os.path.getsize(path) > _MAX_JSON_BYTES:
            raise ValueError(f"larger than {_MAX_JSON_BYTES:,} bytes")
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        tokenization = content["tokenization"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{os.fspath(path)} cannot be read as {MIDITOK_FILE}: {error!r}. Restore it.") from error
    if tokenization not in TOKENIZATIONS:
        raise CheckpointError(
            f"{os.fspath(path)} is of the tokenization {tokenization!r}; usable here are {', '.join(TOKENIZATIONS)}."
        )
    miditok = _import_miditok()
    try:
        loaded = getattr(miditok, tokenization)(params=Path(path))
        len(loaded)
    except Exception as error:  # MidiTok checks nothing: a damaged file ends in whatever it stumbles over
        raise CheckpointError(f"{os.fspath(path)} is damaged: {error!r}. Restore it.") from error
    if problem := find_problem(loaded):
        raise CheckpointError(f"{os.fspath(path)}: {problem}")
    return loaded


def find_problem(miditok: Any) -> str | None:
    """Say why a MidiTok tokenizer cannot be used here, or None if it can."""
    name = type(miditok).__name__
    if name not in TOKENIZATIONS:
        return f"the tokenization {name!r} is none of {', '.join(TOKENIZATIONS)}."
    first = sorted(miditok.vocab, key=miditok.vocab.__getitem__)[: len(SPECIAL_TOKENS)]
    if tuple(first) != SPECIAL_TOKENS:
        return f"its first tokens are {first}, not {list(SPECIAL_TOKENS)}. MidiTokenizer.train makes usable ones."
    if miditok.is_trained and (kind := miditok.to_dict()["_model"].partition('"model":{"type":"')[2][:3]) != "BPE":
        return f"its vocabulary was learned by {kind}..., not by byte pair encoding."
    return None


def with_merges(miditok: Any, pieces: Iterable[Sequence[Sequence[int]]], vocab_size: int) -> Any:
    """A copy of an untrained MidiTok tokenizer that has learned merges, the same ones that its own `train` learns.

    That one writes a progress bar to the standard output, here or in a log.

    Args:
        miditok: The untrained tokenizer.
        pieces: For each piece its words, and for each word its base ids.
        vocab_size: Number of ids, base tokens included.
    """
    vocabulary = dict(miditok.vocab)
    characters = {chr(_FIRST_CHARACTER + number): number for number in vocabulary.values()}
    tokenizer = Tokenizer(models.BPE(characters, [], continuing_subword_prefix="", end_of_word_suffix=""))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=[AddedToken(chr(_FIRST_CHARACTER + number)) for number in miditok.special_tokens_ids],
        initial_alphabet=list(characters),
        continuing_subword_prefix="",
        end_of_word_suffix="",
    )
    texts = (["".join(chr(_FIRST_CHARACTER + number) for number in word) for word in piece] for piece in pieces)
    tokenizer.train_from_iterator(texts, trainer=trainer)
    content = miditok.to_dict() | {
        "_vocab_base": vocabulary,
        "_model": tokenizer.to_str(),
        "_vocab_base_byte_to_token": {chr(_FIRST_CHARACTER + number): name for name, number in vocabulary.items()},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, MIDITOK_FILE)
        path.write_text(json.dumps(content), encoding="utf-8")
        return load_miditok(path)


def base_characters(miditok: Any) -> dict[str, str]:
    """The character that stands for each base token in the learned merges; empty where none were learned."""
    return {name: character for character, name in miditok.to_dict().get("_vocab_base_byte_to_token", {}).items()}


def merge_model(miditok: Any) -> Tokenizer | None:
    """Learned merges as MidiTok applies them, to one word a bar; None where none were learned."""
    return Tokenizer.from_str(miditok.to_dict()["_model"]) if miditok.is_trained else None


def backend(miditok: Any) -> Tokenizer:
    """The same vocabulary as a tokenizer of Hugging Face, with readable special tokens.

    Its words are strings of one character a base token where merges were learned, else names of tokens.
    """
    special = [AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS]
    if not miditok.is_trained:
        tokenizer = Tokenizer(models.WordLevel(dict(miditok.vocab), unk_token=None))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.add_special_tokens(special)
        return tokenizer
    content = json.loads(miditok.to_dict()["_model"])
    vocabulary = content["model"]["vocab"]
    for index, name in enumerate(SPECIAL_TOKENS):
        old = next(word for word, number in vocabulary.items() if number == index)
        vocabulary[name] = vocabulary.pop(old)
    content["added_tokens"] = []
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_special_tokens(special)
    return tokenizer


def token_names(miditok: Any) -> list[tuple[str, ...]]:
    """Names of the base tokens that each id stands for, such as `("Pitch_60", "Velocity_95")`, in the order of ids."""
    if not miditok.is_trained:
        return [(name,) for name, _ in sorted(miditok.vocab.items(), key=lambda entry: entry[1])]
    sequence = _import_miditok().TokSequence
    names = []
    for number in range(len(miditok)):
        decoded = sequence(ids=[number], are_ids_encoded=True)
        miditok.decode_token_ids(decoded)
        names.append(tuple(decoded.tokens))
    return names


def merge_words(merges: Tokenizer | None, characters: Sequence[str], words: Sequence[Sequence[int]]) -> list[list[int]]:
    """Apply learned merges within each word of base ids.

    Args:
        merges: As `merge_model` gives it.
        characters: The character of each base id.
        words: Base ids, word by word (bars of REMI); no merge spans two of them.

    Returns:
        Ids of each word.
    """
    if merges is None:
        return [list(word) for word in words]
    texts = [["".join(characters[number] for number in word)] for word in words]
    return [encoding.ids for encoding in merges.encode_batch(texts, is_pretokenized=True)]


def _import_miditok() -> Any:
    with suppress(ImportError):
        require("symusic", extra="midi", purpose="reading MIDI files")
    return require("miditok", extra="midi", purpose="turning MIDI into tokens")
