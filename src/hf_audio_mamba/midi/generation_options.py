"""What can be asked of generation, checked before anything is read."""

import math
import numbers
from dataclasses import dataclass
from typing import Any

from hf_audio_mamba.errors import UsageError

TOKENS_PER_SECOND = 256
"""Default bound of tokens for each second asked for; dense piano music has 20 to 60."""
TOKENS_PER_NOTE = 32
"""Default bound of tokens for each note asked for; notes have 2 to 5."""


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How to continue a prompt.

    Attributes:
        seconds: Length of the continuation, counted from the last onset of the prompt: all its notes begin before.
        notes: Number of notes of the continuation; with `seconds`, whichever is reached first.
        max_new_tokens: Bound on the tokens of a continuation, for models that never get there; by default 256 for each
            second and 32 for each note asked for.
        num_continuations: Continuations of each prompt, which is read once.
        seed: Whole number from 0 on; continuation `k` of prompt `i` is drawn with `seed + i * num_continuations + k`,
            so each can be had alone. None draws anew each time. The global random state is neither used nor changed.
        do_sample: Draw tokens; False takes the most likely one each time, where one continuation is all there is.
        temperature: Above 0; below 1 makes likely tokens likelier.
        top_k: Draw among the k most likely tokens.
        top_p: Draw among the fewest tokens that together have this probability, in (0, 1].
        min_p: Draw among tokens at least this times as likely as the most likely one, in [0, 1].
        prompt_seconds: Read no more of a prompt than its notes that begin in its first seconds.
        allow_end: Let the model end a piece (`EOS`) before the length asked for.
        grammar: Draw nothing that the tokenizer could not have written; without it special tokens alone are excluded.
    """

    seconds: float | None = None
    notes: int | None = None
    max_new_tokens: int | None = None
    num_continuations: int = 1
    seed: int | None = None
    do_sample: bool = True
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    prompt_seconds: float | None = None
    allow_end: bool = False
    grammar: bool = True

    def __post_init__(self) -> None:
        for name in ("seconds", "prompt_seconds", "temperature"):
            _check_number(name, getattr(self, name), positive=True)
        for name in ("notes", "max_new_tokens", "num_continuations", "top_k"):
            _check_count(name, getattr(self, name), least=1)
        _check_count("seed", self.seed, least=0)
        for name in ("top_p", "min_p"):
            _check_number(name, getattr(self, name), positive=name == "top_p")
            if (getattr(self, name) or 0) > 1:
                raise UsageError(f"{name} must be at most 1, not {getattr(self, name)!r}")
        for name in ("do_sample", "allow_end", "grammar"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} must be True or False, not {getattr(self, name)!r}")
        if self.temperature is None or self.num_continuations is None:
            raise UsageError("temperature and num_continuations cannot be None")
        if not self.do_sample:
            self._check_greedy()

    @property
    def has_length(self) -> bool:
        """Whether something bounds the continuation."""
        return any(value is not None for value in (self.seconds, self.notes, self.max_new_tokens))

    @property
    def token_limit(self) -> int | None:
        """Most tokens of a continuation; None where nothing bounds it."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        limits = [] if self.seconds is None else [math.ceil(self.seconds * TOKENS_PER_SECOND)]
        limits += [] if self.notes is None else [self.notes * TOKENS_PER_NOTE]
        return min(limits, default=None)

    def _check_greedy(self) -> None:
        if self.num_continuations > 1:
            raise UsageError("without sampling all continuations are the same; use num_continuations=1")
        drawing = {"temperature": self.temperature != 1, "top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p}
        given = [name for name, value in drawing.items() if value]
        if given:
            raise UsageError(f"without sampling {', '.join(given)} would do nothing; leave it out")


def _check_number(name: str, value: Any, *, positive: bool) -> None:
    if value is None:
        return
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise UsageError(f"{name} must be a finite number {'above' if positive else 'of at least'} 0, not {value!r}")


def _check_count(name: str, value: Any, *, least: int) -> None:
    if value is None:
        return
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name} must be a whole number, {least} or more, not {value!r}")
