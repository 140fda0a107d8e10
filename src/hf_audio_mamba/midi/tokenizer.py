"""`MidiTokenizer`: MidiTok's tokens for music as a tokenizer of Hugging Face.

REMI (Huang and Yang, "Pop Music Transformer", 2020) writes each bar as `Bar`, then for each onset `Position`, and for
each note `Pitch`, `Velocity`, `Duration`; byte pair encoding then joins tokens that often follow each other within a
bar (Fradet et al., "Byte Pair Encoding for Symbolic Music", 2023). Both are MidiTok's (Fradet et al., 2021).
"""

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerFast

from hf_audio_mamba.errors import CheckpointError, MidiError, UsageError
from hf_audio_mamba.midi.files import check_score, read_midi
from hf_audio_mamba.midi.scores import single_track
from hf_audio_mamba.midi.vocabulary import (
    MIDITOK_FILE,
    SPECIAL_TOKENS,
    backend,
    base_characters,
    find_problem,
    load_miditok,
    merge_model,
    merge_words,
    new_miditok,
    save_miditok,
    token_names,
)

if TYPE_CHECKING:
    from symusic import Score


NOTE_TYPES = ("Pitch", "NoteOn", "PitchDrum", "DrumOn")
"""Types of the base tokens of which each note has exactly one."""


class MidiTokenizer(PreTrainedTokenizerFast):
    """Turns MIDI into the ids that MidiTok gives, and ids into a score; in all else a tokenizer of Transformers.

    It pads, collates, saves and loads like any other: `save_pretrained` writes `tokenizer.json` and
    `tokenizer_config.json` as Transformers does and `miditok.json` beside them, and after `import hf_audio_mamba` they
    are loaded by `AutoTokenizer.from_pretrained`. Make a new one with `MidiTokenizer.train`.

    Time is counted in quarter notes, and without tempo tokens a decoded score has 120 of them a minute. Performances
    (MAESTRO) are written at exactly that tempo, so their bars are blocks of 2 s and not musical bars.

    Args:
        miditok: A MidiTok tokenizer with the special tokens PAD, BOS and EOS, in this order.
        miditok_file: In place of it, its JSON file.
        **kwargs: As for `PreTrainedTokenizerFast`.

    Attributes:
        miditok: The MidiTok tokenizer.

    Raises:
        UsageError: If neither is given, or MidiTok's tokenizer is of another kind.
        CheckpointError: If the file is absent or damaged.
        MissingExtraError: If MidiTok or symusic is not installed.
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json", "miditok_file": MIDITOK_FILE}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(
        self, miditok: Any = None, *, miditok_file: str | os.PathLike[str] | None = None, **kwargs: Any
    ) -> None:
        # What Transformers read from tokenizer.json; miditok.json holds the same and more.
        for name in ("tokenizer_file", "tokenizer_object", "vocab", "merges", "added_tokens_decoder"):
            kwargs.pop(name, None)
        if miditok is None:
            if miditok_file is None:
                where = kwargs.get("name_or_path")
                if where:
                    raise CheckpointError(f"{where} has no {MIDITOK_FILE}, which a MidiTokenizer needs. Restore it.")
                raise UsageError("MidiTokenizer needs a MidiTok tokenizer; MidiTokenizer.train makes one.")
            miditok = load_miditok(miditok_file)
        elif problem := find_problem(miditok):
            raise UsageError(f"This MidiTok tokenizer cannot be used: {problem}")
        self.miditok = miditok
        for name, token in zip(("pad_token", "bos_token", "eos_token"), SPECIAL_TOKENS, strict=True):
            kwargs[name] = token
        super().__init__(tokenizer_object=backend(miditok), **kwargs)

    @classmethod
    def convert_to_native_format(cls, **kwargs: Any) -> dict[str, Any]:
        """Leave what `from_pretrained` has found as it is: the vocabulary comes from `miditok.json`."""
        return kwargs

    @classmethod
    def train(
        cls,
        files: Iterable[str | os.PathLike[str] | bytes],
        *,
        vocab_size: int | None = 1000,
        tokenization: str = "REMI",
        beat_resolution: int = 12,
        num_velocities: int = 32,
        use_sustain_pedals: bool = False,
        use_tempos: bool = False,
        use_time_signatures: bool = False,
        use_programs: bool = False,
        num_workers: int = 1,
        progress: bool = False,
    ) -> "MidiTokenizer":
        """Learn the merges of byte pair encoding from files, which should be those of the training split alone.

        Args:
            files: Paths of MIDI files, or what they hold. Ones that cannot be read are left out with a warning.
            vocab_size: Number of ids, at least as many as there are base tokens; None learns no merges.
            tokenization: One of `hf_audio_mamba.midi.TOKENIZATIONS`.
            beat_resolution: Steps in a quarter note, of onsets and of durations up to 4 quarter notes; 12 is 42 ms at
                120 quarter notes a minute.
            num_velocities: Velocity bins, from 1 to 127.
            use_sustain_pedals: Write the sustain pedal; without it notes end where the key is released.
            use_tempos: Write tempo changes.
            use_time_signatures: Write time signatures; without them every bar has four quarter notes.
            use_programs: Write the instrument before each note, drums too; without it all pitched tracks become one
                piano and drums are left out.
            num_workers: Processes that read files.
            progress: Show a bar on a terminal.

        Raises:
            UsageError: If a setting is out of range or `vocab_size` smaller than the base vocabulary.
            DataError: If no file could be read.
        """
        from hf_audio_mamba.midi.merges import learn_merges

        tokenizer = cls(
            new_miditok(
                tokenization,
                beat_resolution=beat_resolution,
                num_velocities=num_velocities,
                use_sustain_pedals=use_sustain_pedals,
                use_tempos=use_tempos,
                use_time_signatures=use_time_signatures,
                use_programs=use_programs,
            )
        )
        if vocab_size is None:
            return tokenizer
        return cls(learn_merges(tokenizer, files, vocab_size, num_workers=num_workers, progress=progress))

    # Music in

    def encode_midi(
        self, source: "str | os.PathLike[str] | bytes | Score", *, add_special_tokens: bool = False
    ) -> list[int]:
        """Ids of a piece.

        Notes outside the piano's range (MIDI 21 to 108) and exact duplicates are left out by MidiTok.

        Args:
            source: Path of a MIDI file, or what it holds, or a score, which stays as it is.
            add_special_tokens: Begin with the id of BOS and end with that of EOS.

        Returns:
            The ids, each in `[0, len(self))`.

        Raises:
            MidiError: If the file or score cannot be used; see `hf_audio_mamba.midi.read_midi`.
        """
        ids = [number for word in self.merge_words(self.encode_words(source)) for number in word]
        return [self.bos_token_id, *ids, self.eos_token_id] if add_special_tokens else ids

    def encode_words(self, source: "str | os.PathLike[str] | bytes | Score") -> list[list[int]]:
        """Base ids of a piece, in the words within which merges apply (bars); `merge_words` turns them into ids.

        Args:
            source: As for `encode_midi`.

        Raises:
            MidiError: As `encode_midi` does.
        """
        if isinstance(source, str | os.PathLike | bytes):
            score = read_midi(source)
            name = "the MIDI data" if isinstance(source, bytes) else repr(os.fspath(source))
        else:
            score, name = source, "the score"
            check_score(score)
        if self.miditok.one_token_stream:
            sequence = self.miditok.encode(score, encode_ids=False)
        else:
            (sequence,) = self.miditok.encode(single_track(score, name), encode_ids=False) or [None]
        if sequence is None or not any(event.type_ in NOTE_TYPES for event in sequence.events):
            raise MidiError(f"{name} has no notes within the range of a piano (MIDI 21 to 108).")
        return [word.ids for word in sequence.split_per_bars() if len(word)]

    def merge_words(self, words: Sequence[Sequence[int]]) -> list[list[int]]:
        """Ids of each word of base ids."""
        return merge_words(self._merges, self._base_characters, words)

    # Music out

    def decode_midi(self, ids: Any) -> "Score":
        """The score that ids stand for; special tokens are passed over, and ids out of order as far as MidiTok can.

        Args:
            ids: Ids of one piece: a list, or an array or tensor of one axis.

        Returns:
            A score with as many ticks per quarter note as the tokenizer has steps. Where the ids hold no note it has no
            tracks; such a score can be written, but `read_midi` refuses the file.

        Raises:
            MidiError: If an id is not in the vocabulary, or `ids` is not a sequence of whole numbers.
        """
        from miditok import TokSequence

        numbers = [number for number in self._checked_ids(ids) if number >= len(SPECIAL_TOKENS)]
        sequence = TokSequence(ids=numbers, are_ids_encoded=bool(self.miditok.is_trained and numbers))
        score: Score = self.miditok.decode(sequence if self.miditok.one_token_stream else [sequence])
        if score.note_num() == 0:
            del score.tracks[:]
        return score

    def _checked_ids(self, ids: Any) -> list[int]:
        values = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        for position, value in enumerate(values):
            if isinstance(value, bool) or not hasattr(value, "__index__"):
                raise MidiError(f"ids[{position}] is {value!r}; decode_midi takes the whole numbers of one piece.")
            if not 0 <= value < len(self.base_names):
                raise MidiError(
                    f"ids[{position}] is {value}, but the vocabulary has {len(self.base_names)} ids. Does the "
                    "tokenizer belong to the model?"
                )
        return [int(value) for value in values]

    # What ids mean

    @cached_property
    def base_names(self) -> list[tuple[str, ...]]:
        """For each id the names of the base tokens it stands for, such as `("Pitch_60", "Velocity_95")`."""
        return token_names(self.miditok)

    def token_types(self, token_id: int) -> tuple[str, ...]:
        """Types of the base tokens that an id stands for, such as `("Pitch", "Velocity")`; special ids are their own.

        Raises:
            MidiError: If the id is not in the vocabulary.
        """
        (number,) = self._checked_ids([token_id])
        return tuple(name.partition("_")[0] for name in self.base_names[number])

    @cached_property
    def _merges(self) -> Any:
        return merge_model(self.miditok)

    @cached_property
    def _base_characters(self) -> list[str]:
        characters = base_characters(self.miditok)
        return [characters[name] for name in self.miditok.vocab] if characters else []

    # Files

    def _save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        file_names: tuple[str, ...],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        names = super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)
        path = Path(save_directory, f"{filename_prefix}-{MIDITOK_FILE}" if filename_prefix else MIDITOK_FILE)
        save_miditok(self.miditok, path)
        return (*names, str(path))
