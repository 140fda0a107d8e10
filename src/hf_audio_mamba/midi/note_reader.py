"""Reading tokens one by one: each note as soon as it is complete, at the time when it sounds.

MidiTok decodes whole sequences. Music that is played while it is made needs its notes at once, and in a state that
does not grow; the notes and times are those of MidiTok's own decoding.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.midi.vocabulary import split_name

READABLE = ("REMI", "TSD", "Structured")
"""Tokenizers of MidiTok whose tokens can be read one by one."""


NO_TIME = "0.0.1"
"""The value by which Structured says that no time passes; no other tokenization has it."""
_PITCHES = ("Pitch", "PitchDrum", "PitchIntervalTime", "PitchIntervalChord")
# A rest begins where the last note ends, or one of these stands.
_EVENTS_IN_BARS = ("Tempo", "KeySig")
_EVENTS = (*_EVENTS_IN_BARS, "Program", "TimeSig", "Pedal", "PedalOff", "PitchBend", "ControlChange", "Chord")


class TimedNote(NamedTuple):
    """A note in time.

    Attributes:
        onset_s: Beginning in seconds.
        duration_s: Length in seconds, at the tempo of its beginning.
        pitch: MIDI number, 60 is middle C.
        velocity: Loudness, 1 to 127.
        program: MIDI program, 0 to 127, or -1 for drums.
    """

    onset_s: float
    duration_s: float
    pitch: int
    velocity: int
    program: int = 0


class _Bar:
    """Where bars begin and how long their parts are, in ticks."""

    def __init__(self, miditok: Any, numerator: int, denominator: int) -> None:
        from miditok.utils import compute_ticks_per_bar
        from symusic import TimeSignature

        self.ticks = compute_ticks_per_bar(TimeSignature(0, numerator, denominator), miditok.time_division)
        self.ticks_per_beat = miditok._tpb_per_ts[denominator]
        self.ticks_per_position = self.ticks_per_beat // miditok.config.max_num_pos_per_beat


class NoteReader:
    """Keeps the time and the unfinished note of one sequence.

    Args:
        miditok: MidiTok tokenizer, one of `READABLE`, with all tracks in one sequence or one track alone.

    Attributes:
        tick: The time reached, in ticks of `miditok.time_division` per quarter note.
        seconds: The same in seconds.

    Raises:
        UsageError: If the tokenizer is another one.
    """

    def __init__(self, miditok: Any) -> None:
        name = type(miditok).__name__
        if name not in READABLE:
            raise UsageError(f"music is generated with the tokenizers {', '.join(READABLE)}, not with {name}")
        self._miditok = miditok
        self._ticks_per_quarter = int(miditok.time_division)
        self._in_bars = name == "REMI"
        self._counted_as_notes = _EVENTS_IN_BARS if self._in_bars else _EVENTS
        self._bar = _Bar(miditok, 4, 4)
        self._bar_index = -1
        self._bar_tick = self._signature_tick = self._signature_bar_index = 0
        self._last_end = 0
        self._program = 0
        self._reference_pitches: dict[tuple[str, int], int] = {}
        self._unfinished: tuple[int, int | None] | None = None
        self._tempo_tick, self._tempo_s = 0, 0.0
        self._quarters_per_minute = float(miditok.default_tempo)
        self.tick = 0
        self._steps: dict[str, Callable[[str], None]] = {
            "Bar": self._begin_bar,
            "Position": self._go_to_position,
            "TimeShift": self._shift,
            "Rest": self._rest,
            "TimeSig": self._change_signature,
            "Tempo": self._change_tempo,
            "Program": self._change_program,
        }

    @property
    def seconds(self) -> float:
        """The time reached in seconds."""
        return self._tempo_s + self._to_seconds(self.tick - self._tempo_tick)

    def read(self, token: str) -> TimedNote | None:
        """Read one base token.

        Args:
            token: For example `Pitch_60`; special tokens and unknown types pass without effect.

        Returns:
            The note that it completes, if any.
        """
        name, value = split_name(token)
        unfinished, self._unfinished = self._unfinished, None
        if name in _PITCHES:
            return self._read_pitch(name, int(value))
        if name == "Velocity" and unfinished is not None:
            return self._finish_or_wait(unfinished[0], int(value))
        if name == "Duration" and unfinished is not None:
            pitch, velocity = unfinished
            return self._note(pitch, velocity, self._ticks_of(value)) if velocity is not None else None
        if name in self._steps:
            self._steps[name](value)
        if name in self._counted_as_notes:
            self._last_end = max(self._last_end, self.tick)
        return None

    def read_all(self, tokens: Sequence[str]) -> list[TimedNote]:
        """Read base tokens and list the notes that they complete."""
        notes = map(self.read, tokens)
        return [note for note in notes if note is not None]

    def _read_pitch(self, name: str, value: int) -> TimedNote | None:
        onset, chord = ("onset", self._program), ("chord", self._program)
        pitch = value
        if name == "PitchIntervalTime":
            pitch += self._reference_pitches.get(onset, -128)
        elif name == "PitchIntervalChord":
            pitch += self._reference_pitches.get(chord, -128)
        lowest, highest = self._miditok.config.pitch_range
        if not lowest <= pitch <= highest:
            return None
        self._reference_pitches[chord] = pitch
        if name != "PitchIntervalChord":
            self._reference_pitches[onset] = pitch
        if self._miditok.config.use_velocities:
            self._unfinished = (pitch, None)
            return None
        from miditok.constants import DEFAULT_VELOCITY

        return self._finish_or_wait(pitch, DEFAULT_VELOCITY)

    def _finish_or_wait(self, pitch: int, velocity: int) -> TimedNote | None:
        if self._program in self._miditok.config.use_note_duration_programs:
            self._unfinished = (pitch, velocity)
            return None
        ticks = int(self._miditok.config.default_note_duration * self._bar.ticks_per_beat)
        return self._note(pitch, velocity, ticks)

    def _note(self, pitch: int, velocity: int, ticks: int) -> TimedNote:
        self._last_end = max(self._last_end, self.tick + ticks)
        return TimedNote(self.seconds, self._to_seconds(ticks), pitch, velocity, self._program)

    def _ticks_of(self, value: str) -> int:
        return int(self._miditok._tpb_tokens_to_ticks[self._beat][value])

    @property
    def _beat(self) -> int:
        """Ticks of the beat that durations are counted in."""
        return int(self._bar.ticks_per_beat)

    def _begin_bar(self, value: str) -> None:
        if value != "None":
            return
        self._bar_index += 1
        if self._bar_index > 0:
            self.tick = self._bar_tick + self._bar.ticks
        self._bar_tick = self.tick

    def _go_to_position(self, value: str) -> None:
        self._bar_index = max(self._bar_index, 0)
        self.tick = self._bar_tick + int(value) * self._bar.ticks_per_position

    def _shift(self, value: str) -> None:
        if value != NO_TIME:
            self.tick += self._ticks_of(value)

    def _rest(self, value: str) -> None:
        self.tick = max(self._last_end, self.tick) + int(self._miditok._tpb_rests_to_ticks[self._beat][value])
        if not self._in_bars:
            return
        bars = self._signature_bar_index + (self.tick - self._signature_tick) // self._bar.ticks
        if bars > self._bar_index:
            self._bar_index = max(self._bar_index, 0)
            self._bar_tick += (bars - self._bar_index) * self._bar.ticks
            self._bar_index = bars

    def _change_signature(self, value: str) -> None:
        numerator, _, denominator = value.partition("/")
        self._bar = _Bar(self._miditok, int(numerator), int(denominator))
        self._signature_tick, self._signature_bar_index = self._bar_tick, max(self._bar_index, 0)

    def _change_program(self, value: str) -> None:
        self._program = int(value)

    def _change_tempo(self, value: str) -> None:
        self._tempo_tick, self._tempo_s = self.tick, self.seconds
        self._quarters_per_minute = float(value)

    def _to_seconds(self, ticks: int) -> float:
        return ticks / self._ticks_per_quarter * 60.0 / self._quarters_per_minute
