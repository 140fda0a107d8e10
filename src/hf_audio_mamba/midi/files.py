"""Reading MIDI files that nobody vouches for: a score within bounds, or one error that says what is wrong.

symusic trusts lengths it finds in a file and reads on past the end of a truncated one, so the chunks are walked here
before it sees them. What it accepts is then held against bounds, since a tokenizer's work grows with time and notes:
one event at tick 10⁹ is hours of empty bars.

The format is that of the Standard MIDI Files 1.0 specification (MIDI Manufacturers Association, 1996).
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_audio_mamba._optional import require
from hf_audio_mamba.errors import MidiError

if TYPE_CHECKING:
    from symusic import Score

MAX_BYTES = 32 << 20
"""Bytes of a file; the longest performances of MAESTRO have 0.3 MB."""

MAX_NOTES = 500_000
"""Notes of a file; the longest performances of MAESTRO have 30,000."""

MAX_CHANGES = 100_000
"""Tempo changes, and time signatures, of a file."""

MAX_QUARTERS = 100_000
"""Quarter notes from the beginning to the last event: 14 hours at 120 quarters a minute."""

MAX_TRACKS = 1024

MIDI_SUFFIXES = (".mid", ".midi")

_HEADER_BYTES = 14
# symusic reads fixed parts of an event before it looks for the end of the file.
_GUARD = bytes(64)


def read_midi(source: str | os.PathLike[str] | bytes) -> "Score":
    """Read a Standard MIDI File.

    Notes without an end are dropped, notes of no duration are kept, overlapping notes of one pitch are closed first in,
    first out.

    Args:
        source: Path of a file (of any suffix), or what such a file holds.

    Returns:
        The score in ticks, with at least one note and nothing later than `MAX_QUARTERS`.

    Raises:
        MidiError: If the file cannot be read, is not MIDI or is cut off, has no resolution in ticks per quarter note,
            no tracks or no notes, a tempo or a time signature that divides by zero, or is larger than the bounds of
            this module.
        MissingExtraError: If symusic is not installed.
    """
    name = "the MIDI data" if isinstance(source, bytes) else repr(os.fspath(source))
    data = source if isinstance(source, bytes) else read_bytes(source)
    _check_chunks(data, name)
    symusic = require("symusic", extra="midi", purpose="reading MIDI files")
    try:
        score: Score = symusic.Score.from_midi(data + _GUARD)
    except (RuntimeError, ValueError, MemoryError) as error:
        raise MidiError(f"{name} holds a damaged event: {error}. Restore the file or leave it out.") from error
    check_score(score, name)
    return score


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Content of a file, no more of it than `read_midi` accepts.

    Raises:
        MidiError: If it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise MidiError(f"{os.fspath(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _check_chunks(data: bytes, name: str) -> None:
    """Check the header, and that every chunk lies within the data."""
    if not data:
        raise MidiError(f"{name} is empty.")
    if len(data) > MAX_BYTES:
        raise MidiError(f"{name} has more than the {MAX_BYTES:,} bytes that are accepted.")
    if data[:4] != b"MThd":
        wrapped = " (a MIDI file inside RIFF; unpack it)" if data[:4] == b"RIFF" and data[8:12] == b"RMID" else ""
        raise MidiError(f"{name} is not a MIDI file: it begins with {data[:4]!r}, not with b'MThd'{wrapped}.")
    if len(data) < _HEADER_BYTES:
        raise MidiError(f"{name} is cut off in its header: {len(data)} of {_HEADER_BYTES} bytes.")
    length, kind, tracks, division = struct.unpack(">IHHH", data[4:_HEADER_BYTES])
    if length != 6 or kind > 2:
        raise MidiError(f"{name} has a damaged header: length {length}, format {kind}.")
    if kind == 2:
        raise MidiError(f"{name} is of MIDI format 2, a set of independent pieces; save them as files of their own.")
    if division == 0 or division & 0x8000:
        what = "0 ticks per quarter note" if division == 0 else "a resolution in SMPTE frames"
        raise MidiError(f"{name} has {what}; save it again with ticks per quarter note (480, say).")
    if not 0 < tracks <= MAX_TRACKS:
        raise MidiError(f"{name} has {tracks} tracks; between 1 and {MAX_TRACKS} are accepted.")
    found = sum(kind == b"MTrk" for kind in _chunks(data, name))
    if found < tracks:
        raise MidiError(f"{name} is cut off: {found} of the {tracks} tracks that its header tells are there.")


def _chunks(data: bytes, name: str) -> Iterator[bytes]:
    """Kind of each chunk after the header; trailing bytes too few for another one are ignored."""
    position = _HEADER_BYTES
    while len(data) - position >= 8:
        kind, length = struct.unpack(">4sI", data[position : position + 8])
        position += 8 + length
        if position > len(data):
            raise MidiError(f"{name} is cut off: its chunk {kind!r} lacks {position - len(data):,} bytes.")
        yield kind


def check_score(score: "Score", name: str = "the score") -> None:
    """Hold a score against the bounds of this module.

    Raises:
        MidiError: As `read_midi` does; the message begins with `name`.
    """
    notes = score.note_num()
    if notes == 0:
        raise MidiError(f"{name} has no notes.")
    if notes > MAX_NOTES:
        raise MidiError(f"{name} has {notes:,} notes; at most {MAX_NOTES:,} are accepted. Cut it into parts.")
    for kind, changes in (("tempo changes", score.tempos), ("time signatures", score.time_signatures)):
        if len(changes) > MAX_CHANGES:
            raise MidiError(f"{name} has {len(changes):,} {kind}; at most {MAX_CHANGES:,} are accepted.")
    if any(tempo.mspq <= 0 for tempo in score.tempos):
        raise MidiError(f"{name} has a tempo of 0 microseconds per quarter note; correct or remove it.")
    for signature in score.time_signatures:
        if signature.numerator < 1 or signature.denominator < 1:
            raise MidiError(
                f"{name} has a time signature that is none (numerator {signature.numerator}, denominator "
                f"{signature.denominator or 'beyond 128'}) at tick {signature.time}; correct or remove it."
            )
    first, last = _extent(score)
    quarters = last / score.ticks_per_quarter
    # Ticks have 32 bits in symusic: later ones come out negative.
    if first < 0 or quarters > MAX_QUARTERS:
        late = "later than can be counted" if first < 0 else f"{quarters:,.0f} quarter notes after the beginning"
        raise MidiError(
            f"{name} has an event {late}; at most {MAX_QUARTERS:,} quarter notes are accepted. Remove stray events."
        )


def _extent(score: "Score") -> tuple[int, int]:
    """First and last tick of everything with a time."""
    lists: list[Any] = [score.tempos, score.time_signatures, score.key_signatures, score.markers]
    for track in score.tracks:
        lists += [track.notes, track.controls, track.pitch_bends, track.pedals, track.lyrics]
    first = last = 0
    for events in lists:
        if len(events) == 0:
            continue
        arrays = events.numpy() if hasattr(events, "numpy") else {"time": [event.time for event in events]}
        times = np.asarray(arrays["time"], dtype=np.int64)
        ends = times + np.asarray(arrays.get("duration", 0), dtype=np.int64)
        first, last = min(first, int(times.min()), int(ends.min())), max(last, int(ends.max()))
    return first, last
