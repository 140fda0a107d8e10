"""One piece while it grows: what may follow, the notes that each token completes, and when it is long enough."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_audio_mamba.midi.generation_options import GenerationOptions
from hf_audio_mamba.midi.grammar import Mask, MidiGrammar
from hf_audio_mamba.midi.note_reader import NoteReader, TimedNote

if TYPE_CHECKING:
    from hf_audio_mamba.midi.tokenizer import MidiTokenizer

LENGTH_REACHED, PIECE_ENDED, TOO_MANY_TOKENS, CONTEXT_FULL = "length", "end", "max_new_tokens", "context"
"""Why a continuation stops: the length asked for, the model's own end, the bound on tokens, the model's context."""


class TokenTables(NamedTuple):
    """What all pieces of one tokenizer share.

    Attributes:
        tokenizer: The tokenizer.
        grammar: What may follow what.
        special: Bool `(V,)`: special ids, which are never drawn.
    """

    tokenizer: "MidiTokenizer"
    grammar: MidiGrammar
    special: Mask

    @classmethod
    def of(cls, tokenizer: "MidiTokenizer", *, allow_end: bool) -> "TokenTables":
        """Make them, which takes milliseconds for each thousand ids."""
        names_of_special = set(tokenizer.miditok.special_tokens)
        special = [bool(names) and names[0] in names_of_special for names in tokenizer.base_names]
        if allow_end:
            special[tokenizer.eos_token_id] = False
        return cls(tokenizer, MidiGrammar(tokenizer.miditok, allow_end=allow_end), np.array(special, dtype=np.bool_))


class GrowingPiece:
    """A prompt, its time and its state in the grammar, and the tokens that follow it.

    Args:
        tables: Tables of the tokenizer.
        prompt: Token ids, at least one.
        options: How to continue it.
        index: Number of the continuation, counted over all prompts; the seed depends on it.
        context_left: Tokens that the model can still read after the prompt; None for no bound.
        keeps_tokens: Whether to keep the tokens; a stream that has no end must not.

    Attributes:
        prompt: The prompt.
        tokens: The tokens that follow it, if they are kept.
        start_tick: The time of the prompt's last onset in ticks of the tokenizer.
        start_s: The same in seconds.
        stop_reason: Why it is complete; None as long as it is not.
    """

    def __init__(
        self,
        tables: TokenTables,
        prompt: Sequence[int],
        options: GenerationOptions,
        index: int,
        *,
        context_left: int | None,
        keeps_tokens: bool = True,
    ) -> None:
        self.prompt = list(prompt)
        self.tokens: list[int] = []
        self.stop_reason: str | None = None
        self._tables = tables
        self._keeps_tokens = keeps_tokens
        self._obeys = options.grammar
        self._reader = NoteReader(tables.tokenizer.miditok)
        for token in prompt:
            self._reader.read_all(tables.tokenizer.base_names[token])
        self._state = tables.grammar.advance(tables.grammar.start, prompt)
        self.start_tick, self.start_s = self._reader.tick, self._reader.seconds
        self._end_s = None if options.seconds is None else self.start_s + options.seconds
        self._notes_left, self._tokens_left = options.notes, options.token_limit
        self._context_left = context_left
        self._random = np.random.default_rng(None if options.seed is None else options.seed + index)

    @property
    def banned(self) -> Mask:
        """Bool `(V,)`: ids that may not come next."""
        return self._tables.grammar.banned(self._state) if self._obeys else self._tables.special

    def draw(self, probabilities: NDArray[np.float32]) -> int:
        """Draw the next token, from random numbers of this piece alone.

        By the inverse of the cumulative distribution: `torch.multinomial` draws a number for each id and takes ten
        times as long.

        Args:
            probabilities: `(vocabulary,)`, which need not sum to 1.
        """
        cumulative = probabilities.cumsum(dtype=np.float64)
        return int(cumulative.searchsorted(self._random.random() * cumulative[-1], side="right"))

    def take(self, token: int) -> list[TimedNote]:
        """Add a token, or as much of it as the length allows.

        Args:
            token: An id that is not banned.

        Returns:
            The notes that it completes, their onsets counted from the start of the continuation.
        """
        tokenizer = self._tables.tokenizer
        if token == tokenizer.eos_token_id:
            self.stop_reason = PIECE_ENDED
            self._keep([token])
            return []
        names = tokenizer.base_names[token]
        notes: list[TimedNote] = []
        kept = 0
        for name in names:
            note = self._reader.read(name)
            if self._end_s is not None and self._reader.seconds >= self._end_s:
                self.stop_reason = LENGTH_REACHED
                break
            kept += 1
            if note is not None:
                notes.append(note._replace(onset_s=note.onset_s - self.start_s))
                if self._notes_left is not None and self._count_note():
                    break
        # Ids of base tokens stay what they are when merges are learned, so half a merged token can be written.
        base_ids = tokenizer.miditok.vocab
        self._keep([token] if kept == len(names) else [base_ids[name] for name in names[:kept]])
        self._state = self._tables.grammar.advance(self._state, [token])
        self._count_token()
        return notes

    def _keep(self, tokens: list[int]) -> None:
        if self._keeps_tokens:
            self.tokens += tokens

    def _count_note(self) -> bool:
        assert self._notes_left is not None
        self._notes_left -= 1
        if self._notes_left == 0:
            self.stop_reason = LENGTH_REACHED
        return self._notes_left == 0

    def _count_token(self) -> None:
        if self._tokens_left is not None:
            self._tokens_left -= 1
        if self._context_left is not None:
            self._context_left -= 1
        if self.stop_reason is None and self._tokens_left == 0:
            self.stop_reason = TOO_MANY_TOKENS
        if self.stop_reason is None and self._context_left == 0:
            self.stop_reason = CONTEXT_FULL
