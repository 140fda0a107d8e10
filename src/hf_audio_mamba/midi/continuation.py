"""A finished continuation, and scores without what came before."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from symusic import Score


@dataclass(frozen=True)
class Continuation:
    """What generation made of a prompt.

    Attributes:
        score: Prompt and continuation, in ticks. The prompt is as the tokenizer writes it: on its grid of time and
            velocity, without what it has no tokens for.
        continuation: The continuation alone; its time 0 is the prompt's last onset.
        start_s: That onset in `score`, in seconds; 0 without a prompt.
        tokens: Ids of the continuation. The last token may be cut, then its base tokens stand in its place.
        prompt_tokens: Ids of the prompt, `BOS` first.
        stop_reason: `"length"` if the length asked for was reached, `"end"` if the model ended the piece,
            `"max_new_tokens"` or `"context"` if the bound on tokens or the model's context came first.
    """

    score: "Score"
    continuation: "Score"
    start_s: float
    tokens: list[int]
    prompt_tokens: list[int]
    stop_reason: str


def without_prompt(score: "Score", prompt: "Score", start_tick: int) -> "Score":
    """What a score has beyond the one that it continues, beginning at 0.

    Args:
        score: Prompt and continuation; tracks and notes of the prompt come first in it, as MidiTok writes them.
        prompt: The prompt alone.
        start_tick: The time that becomes 0.

    Returns:
        A new score without tracks that have no notes.
    """
    rest = score.copy()
    begun = list(prompt.tracks)
    for index, track in enumerate(rest.tracks):
        if index < len(begun):
            for name in ("notes", "pedals", "pitch_bends"):
                setattr(track, name, getattr(track, name)[len(getattr(begun[index], name)) :])
            track.controls = [event for event in track.controls if event.time >= start_tick]
    rest.tracks = [track for track in rest.tracks if len(track.notes)]
    # Sequences that break the grammar may run backwards in time.
    origin = min([start_tick, *(note.time for track in rest.tracks for note in track.notes)])
    for name in ("tempos", "time_signatures", "key_signatures"):
        setattr(rest, name, _from(getattr(rest, name), origin))
    rest.markers = []
    for track in rest.tracks:
        for pedal in track.pedals:
            if pedal.time < origin:
                pedal.duration, pedal.time = max(0, pedal.end - origin), origin
    moved: Score = rest.shift_time(-origin)
    return moved


def _from(events: Any, tick: int) -> list[Any]:
    """Changes from a time on, and what holds there."""
    holding = [event for event in events if event.time <= tick][-1:]
    for event in holding:
        event.time = tick
    return [*holding, *(event for event in events if event.time > tick)]
