"""Music that goes on from a prompt: whole continuations as scores, or note by note while they are made."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from hf_audio_mamba.errors import CheckpointError, MidiError, UnsupportedModelError, UsageError
from hf_audio_mamba.fast_mamba import use_fast_mamba
from hf_audio_mamba.midi.causal_decoder import CausalDecoder
from hf_audio_mamba.midi.continuation import Continuation, without_prompt
from hf_audio_mamba.midi.generation_options import GenerationOptions
from hf_audio_mamba.midi.grammar import ban
from hf_audio_mamba.midi.growing_piece import GrowingPiece, TokenTables
from hf_audio_mamba.midi.note_reader import NoteReader, TimedNote

if TYPE_CHECKING:
    from symusic import Score

    from hf_audio_mamba.midi.tokenizer import MidiTokenizer

Prompt: TypeAlias = "str | os.PathLike[str] | bytes | Score | Sequence[int] | None"

MAX_PADDING = 128
"""A vocabulary may be padded to a multiple of at most this."""


class MidiGenerator:
    """Continues music with a causal language model and the tokenizer that it was trained with.

    Mamba models run on this package's operations from then on (`use_fast_mamba`, in place); their state has constant
    size, so neither step time nor memory grows with the length of the music. Tokens are drawn on the CPU, so a seed
    gives the same music on every device as far as the model's numbers are the same.

    Args:
        model: Causal language model in evaluation mode: `MambaForCausalLM`, or any other of Transformers.
        tokenizer: Its tokenizer.

    Raises:
        CheckpointError: If the vocabularies of model and tokenizer do not fit.
        UsageError: If the tokenization cannot be generated (MIDILike), or the model is in training mode.

    Example:
        >>> generator = MidiGenerator(model, tokenizer)  # doctest: +SKIP
        >>> [[first]] = generator.generate(["prompt.mid"], GenerationOptions(seconds=20, seed=0))  # doctest: +SKIP
        >>> first.score.dump_midi("continued.mid")  # doctest: +SKIP
    """

    def __init__(self, model: PreTrainedModel, tokenizer: "MidiTokenizer") -> None:
        size, wanted = int(model.get_input_embeddings().weight.shape[0]), len(tokenizer.base_names)
        if not wanted <= size < wanted + MAX_PADDING:
            raise CheckpointError(
                f"the model has {size} token embeddings but the tokenizer {wanted} ids: they do not belong together. "
                "Load both from one folder."
            )
        with contextlib.suppress(UnsupportedModelError):  # no Mamba, or one that has been changed: it runs as it is
            use_fast_mamba(model)
        NoteReader(tokenizer.miditok)  # says which tokenizations can be read
        self._model, self._tokenizer = model, tokenizer
        self._tables: dict[bool, TokenTables] = {}

    def generate(
        self, prompts: Sequence[Prompt], options: GenerationOptions, *, first: int = 0
    ) -> list[list[Continuation]]:
        """Continue prompts, all at once.

        Args:
            prompts: Each a path of a MIDI file, what it holds, a score, token ids, or None to begin with nothing.
            options: Length, sampling, number of continuations.
            first: Number of the first prompt; seeds count from it, so prompts can be given in several calls.

        Returns:
            `num_continuations` continuations for each prompt.

        Raises:
            CheckpointError: If the model's scores are not finite.
            MidiError: If a prompt cannot be read or has no notes, or ids are out of range.
            UsageError: If no length is given, or a prompt is longer than the model's context.
        """
        if not options.has_length:
            raise UsageError("say how long the continuation shall be: seconds, notes or max_new_tokens")
        pieces = self._begin(prompts, options, first)
        for _ in self._grow(pieces, options):
            pass
        found = [self._finished(piece) for piece in pieces]
        count = options.num_continuations
        return [found[start : start + count] for start in range(0, len(found), count)]

    def stream(self, prompt: Prompt, options: GenerationOptions) -> Iterator[TimedNote]:
        """Continue a prompt note by note.

        Each note comes as soon as its last token is drawn; the model works on when the next one is asked for. Nothing
        of what has been made is kept, so with a Mamba model and without a length it can play for ever.

        Args:
            prompt: As for `generate`.
            options: As for `generate`; the length may be left out, `num_continuations` must be 1.

        Returns:
            Iterator of notes in the order of their onsets, counted in seconds from the prompt's last onset. They are
            the notes of `generate` with the same options.

        Raises:
            CheckpointError: While it runs, if the model's scores are not finite.
            MidiError: If the prompt cannot be used.
            UsageError: If the options cannot be used.
        """
        if options.num_continuations != 1:
            raise UsageError("a stream is one continuation; use num_continuations=1 and another seed for each stream")
        pieces = self._begin([prompt], options, 0, keeps_tokens=False)
        return (note for _, notes in self._grow(pieces, options) for note in notes)

    def _begin(
        self, prompts: Sequence[Prompt], options: GenerationOptions, first: int, *, keeps_tokens: bool = True
    ) -> list[GrowingPiece]:
        tables = self._tables_for(options)
        limit = CausalDecoder(self._model).max_length
        pieces = []
        for number, prompt in enumerate(prompts, start=first):
            ids = self._prompt_ids(prompt, options, tables)
            if limit is not None and len(ids) >= limit:
                raise UsageError(
                    f"the prompt has {len(ids)} tokens, but the model reads {limit}; cut it with prompt_seconds"
                )
            pieces += [
                GrowingPiece(
                    tables,
                    ids,
                    options,
                    number * options.num_continuations + copy,
                    context_left=None if limit is None else limit - len(ids),
                    keeps_tokens=keeps_tokens,
                )
                for copy in range(options.num_continuations)
            ]
        return pieces

    def _grow(
        self, pieces: list[GrowingPiece], options: GenerationOptions
    ) -> Iterator[tuple[GrowingPiece, list[TimedNote]]]:
        """Draw tokens until every piece is complete."""
        if not pieces:
            return
        decoder = CausalDecoder(self._model)
        warpers = _warpers(options)
        copies = options.num_continuations
        logits = decoder.read_prompts([piece.prompt for piece in pieces[::copies]])
        if copies > 1:
            rows = [row for row in range(len(logits)) for _ in range(copies)]
            decoder.select(rows)
            logits = logits[rows]
        while True:
            tokens = _draw(logits, pieces, warpers)
            for piece, token in zip(pieces, tokens, strict=True):
                yield piece, piece.take(token)
            going = [row for row, piece in enumerate(pieces) if piece.stop_reason is None]
            if not going:
                return
            if len(going) < len(pieces):
                pieces, tokens = [pieces[row] for row in going], [tokens[row] for row in going]
                decoder.select(going)
            logits = decoder.read_tokens(tokens)

    def _prompt_ids(self, prompt: Any, options: GenerationOptions, tables: TokenTables) -> list[int]:
        tokenizer = self._tokenizer
        if prompt is None:
            return [tokenizer.bos_token_id]
        if isinstance(prompt, (str, os.PathLike, bytes)) or hasattr(prompt, "tracks"):
            ids = list(tokenizer.encode_midi(prompt))
        else:
            ids = [int(index) for index in prompt]
            wrong = [index for index in ids if not 0 <= index < len(tokenizer.base_names)]
            if wrong:
                raise MidiError(
                    f"the prompt has the token id {wrong[0]}, but the tokenizer {len(tokenizer.base_names)}"
                )
        ids = [index for index in ids if index not in (tokenizer.bos_token_id, tokenizer.eos_token_id)]
        within = ""
        if options.prompt_seconds is not None:
            ids, within = self._first_seconds(ids, options.prompt_seconds, tables), " within prompt_seconds"
        reader = NoteReader(tokenizer.miditok)
        if not any(reader.read_all(tokenizer.base_names[index]) for index in ids):
            raise MidiError(f"the prompt has no notes{within}; leave it out to begin with nothing")
        return [tokenizer.bos_token_id, *ids]

    def _first_seconds(self, ids: list[int], seconds: float, tables: TokenTables) -> list[int]:
        """The tokens up to some time, whole ones alone and no half notes."""
        reader, state = NoteReader(self._tokenizer.miditok), tables.grammar.start
        kept = 0
        for position, index in enumerate(ids):
            state = tables.grammar.advance(state, [index])
            notes = reader.read_all(self._tokenizer.base_names[index])
            if reader.seconds >= seconds:
                break
            if notes and tables.grammar.may_move_on(state):
                kept = position + 1
        return ids[:kept]

    def _finished(self, piece: GrowingPiece) -> Continuation:
        score = self._tokenizer.decode_midi([*piece.prompt, *piece.tokens])
        prompt = self._tokenizer.decode_midi(piece.prompt)
        assert piece.stop_reason is not None
        return Continuation(
            score=score,
            continuation=without_prompt(score, prompt, piece.start_tick),
            start_s=piece.start_s,
            tokens=piece.tokens,
            prompt_tokens=piece.prompt,
            stop_reason=piece.stop_reason,
        )

    def _tables_for(self, options: GenerationOptions) -> TokenTables:
        if options.allow_end not in self._tables:
            self._tables[options.allow_end] = TokenTables.of(self._tokenizer, allow_end=options.allow_end)
        return self._tables[options.allow_end]


def _warpers(options: GenerationOptions) -> LogitsProcessorList | None:
    """Transformers' own, in the order in which `generate` applies them; None takes the most likely token."""
    if not options.do_sample:
        return None
    warpers = LogitsProcessorList()
    if options.temperature != 1:
        warpers.append(TemperatureLogitsWarper(float(options.temperature)))
    if options.top_k is not None:
        warpers.append(TopKLogitsWarper(options.top_k))
    if options.top_p is not None and options.top_p < 1:
        warpers.append(TopPLogitsWarper(options.top_p))
    if options.min_p:
        warpers.append(MinPLogitsWarper(options.min_p))
    return warpers


def _draw(logits: Tensor, pieces: Sequence[GrowingPiece], warpers: LogitsProcessorList | None) -> list[int]:
    """The next token of each piece."""
    scores = ban(logits, [piece.banned for piece in pieces])
    if warpers is None:
        chosen: list[int] = scores.argmax(dim=-1).tolist()
        return chosen
    none = torch.empty(len(pieces), 0, dtype=torch.long)  # none of the warpers looks at what came before
    probabilities = warpers(none, scores).softmax(dim=-1).numpy()
    return [piece.draw(row) for piece, row in zip(pieces, probabilities, strict=True)]
