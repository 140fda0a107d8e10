"""Scores before they become tokens."""

from typing import TYPE_CHECKING

from hf_audio_mamba._optional import require
from hf_audio_mamba.errors import MidiError

if TYPE_CHECKING:
    from symusic import Score


def single_track(score: "Score", name: str = "the score") -> "Score":
    """A copy whose pitched tracks are one, a piano; drums, whose pitches are none, are left out.

    Args:
        score: Any score; it stays as it is.
        name: What messages call it.

    Raises:
        MidiError: If there are only drums.
    """
    pitched = [track for track in score.tracks if not track.is_drum and len(track.notes)]
    if not pitched:
        raise MidiError(
            f"{name} has notes on drum tracks only, which have no pitch. Use a tokenizer with use_programs=True."
        )
    symusic = require("symusic", extra="midi", purpose="reading MIDI files")
    merged = score.copy()
    track = symusic.Track(name="Piano", program=0, is_drum=False)
    for part in pitched:
        track.notes.extend(part.notes)
        track.controls.extend(part.controls)
        track.pedals.extend(part.pedals)
    track.sort()
    merged.tracks = [track]
    merged_score: Score = merged
    return merged_score
