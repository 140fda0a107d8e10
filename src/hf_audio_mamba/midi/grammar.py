"""Which tokens may come next: sequences that a tokenizer could have written, and no others.

MidiTok describes its token sequences by a graph of types (a pitch is followed by a velocity, that by a duration, ...)
and counts as errors what breaks it, positions that do not move forward within a bar and, where its configuration
removes duplicated notes, a pitch that begins twice at once (`MusicTokenizer.tokens_errors`). Three rules more keep time
running forwards: a piece begins with a bar, positions stay within their bar, time signatures stand at its beginning. A
token of byte pair encoding joins several of these steps, and all of them have to be right.

What may follow depends on the type of the last base token and on the position in the bar. Both are looked up in tables
made once, so that a step costs microseconds whatever the vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.midi.vocabulary import split_name, token_names

NEW_ONSET = ("Position", "TimeShift", "Rest")
"""Types after which a pitch may begin again, besides a new bar."""
MOVING_ON = frozenset(("Bar", "TimeShift"))
"""Types by which time moves on whatever comes after them."""
PITCHES = ("Pitch", "PitchDrum", "NoteOn")
BAR = "Bar_None"
START = "BOS"
SPACE = ""
"""Type of the id that stands for no base token: training puts it where a word begins, in TSD at each bar line."""
BEFORE_FIRST = -1
"""The position in the bar before any `Position` token of it."""
MAX_KEPT_MASKS = 2048
"""States whose masks are kept, of one byte for each id; a tokenizer with one time signature has some hundreds."""
_ANYWHERE = 1 << 30

# Masks are numpy's, whose small operations take a fraction of torch's time.
Mask = NDArray[np.bool_]

Note = tuple[int | None, int]
"""Program (None: the one that holds) and pitch."""


class GrammarState(NamedTuple):
    """All of a sequence that decides what may follow.

    Attributes:
        last_type: Type of the last base token, `BOS` at the beginning.
        position: Position in the bar, or `BEFORE_FIRST`.
        bar_length: Positions of a bar at the last time signature.
        program: The last program.
        begun: Notes that begin at this moment; kept only where none may begin twice.
        after_space: Whether the last token was a space between words, of which there are never two.
    """

    last_type: str
    position: int
    bar_length: int
    program: int
    begun: frozenset[Note]
    after_space: bool = False


@dataclass
class _Effect:
    """What a token needs of the state before it, and what it leaves behind."""

    first_type: str
    last_type: str = ""
    is_valid: bool = True
    first_position: int = _ANYWHERE
    farthest_position: int = BEFORE_FIRST
    position: int | None = None
    bar_length: int | None = None
    program: int | None = None
    begins_first: list[Note] = field(default_factory=list)
    begins_last: list[Note] = field(default_factory=list)
    has_new_onset: bool = False


class MidiGrammar:
    """The tables of one tokenizer, and the steps from state to state.

    Args:
        miditok: MidiTok tokenizer of one vocabulary of `V` ids.
        allow_end: Whether a sequence may end (`EOS`), which it then may wherever time may move on, never inside a note.

    Raises:
        UsageError: If the tokenizer's graph has a type that nothing may follow, or it has pitch intervals and removes
            duplicated notes, which cannot be judged from a state of bounded size.

    Example:
        >>> grammar = MidiGrammar(tokenizer.miditok)  # doctest: +SKIP
        >>> state = grammar.advance(grammar.start, tokenizer.encode_midi("prompt.mid"))  # doctest: +SKIP
        >>> scores.masked_fill(grammar.banned(state), float("-inf"))  # doctest: +SKIP
    """

    def __init__(self, miditok: Any, *, allow_end: bool = False) -> None:
        self._tokens = token_names(miditok)
        self._special = frozenset(split_name(token)[0] for token in miditok.special_tokens)
        self._removes_duplicates = bool(miditok.config.remove_duplicated_notes)
        if self._removes_duplicates and miditok.config.use_pitch_intervals:
            raise UsageError(
                "the tokenizer has pitch intervals and removes duplicated notes; generate without the grammar"
            )
        self._positions_per_beat = int(miditok.config.max_num_pos_per_beat)
        self._graph = self._next_types(miditok)
        self._effects = [self._effect(tokens) for tokens in self._tokens]
        self._spaces: Mask = np.array([effect.first_type == SPACE for effect in self._effects])
        self._end_id: int | None = miditok.vocab.get("EOS_None") if allow_end else None
        self._by_type = {name: self._banned_after_type(name) for name in self._graph}
        first_positions = [effect.first_position for effect in self._effects]
        self._by_position = self._banned_at_positions(first_positions)
        # A rest may have crossed a bar line, so the position after it is free.
        free = [_ANYWHERE if effect.first_type == "Position" else effect.first_position for effect in self._effects]
        self._after_rest = self._banned_at_positions(free)
        self._farthest = np.array([effect.farthest_position for effect in self._effects])
        self._banned_at_states: dict[tuple[str, int, int], Mask] = {}
        self._note_rows, self._banned_by_note = self._notes_begun_first()
        self._check_dead_ends()

    @property
    def start(self) -> GrammarState:
        """The state before the first token."""
        return GrammarState(START, BEFORE_FIRST, 4 * self._positions_per_beat, 0, frozenset())

    def advance(self, state: GrammarState, ids: Sequence[int]) -> GrammarState:
        """The state after some more tokens, whether the grammar would have let them through or not.

        Args:
            state: State before them.
            ids: Token ids, each below `V`; special tokens change nothing, but `BOS` begins anew.
        """
        for index in ids:
            effect = self._effects[index]
            if effect.first_type == SPACE:
                state = state._replace(after_space=True)
                continue
            if effect.last_type in self._special:
                state = self.start if effect.last_type == START else state
                continue
            position = state.position if effect.position is None else effect.position
            bar_length = state.bar_length if effect.bar_length is None else effect.bar_length
            program = state.program if effect.program is None else effect.program
            begun = state.begun
            if self._removes_duplicates:
                before = frozenset() if effect.has_new_onset else begun
                begun = before | {self._with_program(note, state.program) for note in effect.begins_last}
            state = GrammarState(effect.last_type, position, bar_length, program, begun)
        return state

    def may_move_on(self, state: GrammarState) -> bool:
        """Whether all notes before a state are complete, so that time may move on after it."""
        following = self._graph.get(state.last_type, self._graph[START])
        return state.last_type == START or not following.isdisjoint(MOVING_ON)

    def banned(self, state: GrammarState) -> Mask:
        """The ids that may not follow a state.

        Returns:
            Bool `(V,)`, True where an id is banned; not to be written to.
        """
        banned = self._banned_at(state.last_type, state.position, state.bar_length)
        if state.after_space:
            banned = banned | self._spaces
        rows = self._rows_of(state) if state.begun else []
        if rows:
            banned = banned | self._banned_by_note[rows].any(axis=0)
        return banned

    def _next_types(self, miditok: Any) -> Mapping[str, frozenset[str]]:
        """For each type those that may follow, without special ones, and for `BOS` those that begin music."""
        graph = {
            name: frozenset(following) - self._special - frozenset(miditok.special_tokens)
            for name, following in miditok.tokens_types_graph.items()
            if name not in self._special
        }
        # The graph lets anything follow BOS, even half a note.
        if "Bar" in graph:
            # The graph also lets a time signature cut a bar short that has begun, and time run backwards.
            graph = {name: types if name == "Bar" else types - {"TimeSig"} for name, types in graph.items()}
            first = {"Bar"} | ({"Rest"} & graph.keys()) | ({"Program"} if miditok.config.program_changes else set())
        else:
            first = {"TimeShift"} | graph.get("TimeShift", frozenset())
        return {**graph, START: frozenset(first)}

    def _effect(self, tokens: Sequence[str]) -> _Effect:
        if not tokens:
            return _Effect(first_type=SPACE)
        effect = _Effect(split_name(tokens[0])[0])
        for token in tokens:
            name, value = split_name(token)
            if effect.last_type and name not in self._graph.get(effect.last_type, ()):
                effect.is_valid = False
            if token == BAR:
                self._begin_onset(effect)
                effect.position = BEFORE_FIRST
            elif name == "Position":
                self._move(effect, int(value))
            elif name in NEW_ONSET:
                self._begin_onset(effect)
            elif name == "TimeSig":
                effect.bar_length = int(value.partition("/")[0]) * self._positions_per_beat
            elif name == "Program":
                effect.program = int(value)
            elif name in PITCHES:
                self._begin_note(effect, (effect.program, int(value)))
            effect.last_type = name
        return effect

    def _move(self, effect: _Effect, position: int) -> None:
        if effect.last_type != "Rest":
            if effect.position is None:
                effect.first_position = position
            elif position <= effect.position:
                effect.is_valid = False
        if effect.bar_length is None:
            effect.farthest_position = max(effect.farthest_position, position)
        elif position >= effect.bar_length:
            effect.is_valid = False
        effect.position = position
        self._begin_onset(effect)

    def _begin_onset(self, effect: _Effect) -> None:
        effect.has_new_onset = True
        effect.begins_last = []

    def _begin_note(self, effect: _Effect, note: Note) -> None:
        if self._removes_duplicates and note in effect.begins_last:
            effect.is_valid = False
        if not effect.has_new_onset:
            effect.begins_first.append(note)
        effect.begins_last.append(note)

    def _banned_after_type(self, name: str) -> Mask:
        """Bool `(V,)`: what a type bans."""
        following = self._graph[name]
        allowed = [effect.is_valid and effect.first_type in following for effect in self._effects]
        if name == START or not following.isdisjoint(MOVING_ON):
            allowed = [is_allowed or space for is_allowed, space in zip(allowed, self._spaces.tolist(), strict=True)]
            if self._end_id is not None and name != START:
                allowed[self._end_id] = True
        return ~np.array(allowed, dtype=np.bool_)

    def _banned_at_positions(self, first_positions: Sequence[int]) -> Mask:
        """Bool `(positions + 1, V)`: what each position bans, the first row for `BEFORE_FIRST`."""
        reached = [effect.position for effect in self._effects if effect.position is not None]
        positions = np.arange(BEFORE_FIRST, max(reached, default=BEFORE_FIRST) + 1)
        banned: Mask = np.array(first_positions) <= positions[:, None]
        return banned

    def _banned_at(self, last_type: str, position: int, bar_length: int) -> Mask:
        """Bool `(V,)`: what is banned whatever begins at this moment."""
        key = (last_type, position, bar_length)
        banned = self._banned_at_states.get(key)
        if banned is None:
            # Attribute controls come before music and are in no graph.
            by_type = self._by_type.get(last_type, self._by_type[START])
            by_position = self._after_rest if last_type == "Rest" else self._by_position
            banned = by_type | by_position[position + 1] | (self._farthest >= bar_length)
            if len(self._banned_at_states) < MAX_KEPT_MASKS:
                self._banned_at_states[key] = banned
        return banned

    def _notes_begun_first(self) -> tuple[dict[Note, int], Mask]:
        """Each note's row in a bool tensor `(notes, V)`: tokens that begin it before time moves."""
        rows: dict[Note, int] = {}
        pairs = []
        for index, effect in enumerate(self._effects):
            for note in effect.begins_first:
                pairs.append((rows.setdefault(note, len(rows)), index))
        table = np.zeros((len(rows), len(self._effects)), dtype=np.bool_)
        if pairs:
            table[tuple(np.array(pairs).T)] = True
        return rows, table

    def _rows_of(self, state: GrammarState) -> list[int]:
        """Rows of the notes that begin at this moment: as tokens name them, and where their program holds."""
        names = [*state.begun, *((None, pitch) for program, pitch in state.begun if program == state.program)]
        return [self._note_rows[name] for name in names if name in self._note_rows]

    def _with_program(self, note: Note, program: int) -> Note:
        return note if note[0] is not None else (program, note[1])

    def _check_dead_ends(self) -> None:
        """Make sure that no state forbids everything: positions and pitches come back with the next bar or onset."""
        reached, new = set[str](), {START}
        while new:
            reached |= new
            steps = {self._effects[index].last_type for name in new for index in self._allowed_ids(name)}
            new = steps - reached - self._special
        for name in reached:
            if not self._allowed_ids(name):
                raise UsageError(f"the tokenizer has no token that may follow {name}; generate without the grammar")

    def _allowed_ids(self, name: str) -> list[int]:
        indices: list[int] = np.flatnonzero(~self._by_type[name]).tolist()
        return [index for index in indices if index != self._end_id and not self._spaces[index]]


class MidiGrammarLogitsProcessor(LogitsProcessor):
    """Lets `model.generate` of Transformers sample nothing but sequences that the tokenizer could have written.

    Special tokens are never sampled, `EOS` only where a piece may end. Works with batches, left padding and beams.

    Args:
        grammar: Grammar of the tokenizer.

    Example:
        >>> model.generate(ids, logits_processor=[MidiGrammarLogitsProcessor(grammar)])  # doctest: +SKIP
    """

    def __init__(self, grammar: MidiGrammar) -> None:
        self._grammar = grammar
        self._ids = torch.empty(0, 0, dtype=torch.long)
        self._states: list[GrammarState] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Ban what may not follow.

        Args:
            input_ids: Sequences so far `(batch, length)`.
            scores: Scores of the next token `(batch, vocabulary)`, the vocabulary at least the grammar's.

        Returns:
            Scores, minus infinity where a token is banned.
        """
        ids = input_ids.cpu()
        # Beam search changes the order of rows, and a processor may serve one call of `generate` after another.
        if ids.shape[1] == self._ids.shape[1] + 1 and torch.equal(ids[:, :-1], self._ids):
            new = ids[:, -1:].tolist()
        else:
            self._states, new = [self._grammar.start] * len(ids), ids.tolist()
        pairs = zip(self._states, new, strict=True)
        self._states, self._ids = [self._grammar.advance(state, row) for state, row in pairs], ids
        return ban(scores, [self._grammar.banned(state) for state in self._states])


def ban(scores: Tensor, banned: Sequence[Mask]) -> Tensor:
    """Set scores of banned tokens to minus infinity.

    Args:
        scores: `(batch, vocabulary)`.
        banned: For each row bool `(V,)`, V at most the vocabulary; ids past V are banned too.

    Returns:
        New scores of the same shape.
    """
    mask = torch.from_numpy(banned[0][None] if len(banned) == 1 else np.stack(banned)).to(scores.device)
    missing = scores.shape[1] - mask.shape[1]
    if missing > 0:
        mask = torch.nn.functional.pad(mask, (0, missing), value=True)
    return scores.masked_fill(mask, -torch.inf)
