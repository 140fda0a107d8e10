"""Notes read one by one against MidiTok's decoding of whole sequences."""

import pytest
from miditok import REMI, TSD, MIDILike, Structured, TokenizerConfig

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.midi.note_reader import NoteReader
from hf_audio_mamba.midi.vocabulary import token_names
from tests.midi.music_models import random_music

CONFIGS = [
    {},
    {"use_tempos": True},
    {"use_time_signatures": True, "use_tempos": True},
    {"use_rests": True},
    {"use_rests": True, "use_time_signatures": True},
    {"use_programs": True, "use_time_signatures": True},
    {"use_velocities": False},
    {"use_pitch_intervals": True},
    {"use_sustain_pedals": True, "sustain_pedal_duration": True},
    {"use_note_duration_programs": []},
]


@pytest.mark.parametrize("kind", [REMI, TSD])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_notes_are_those_of_miditok(kind: type, config: dict[str, bool]) -> None:
    assert_same_notes(kind(TokenizerConfig(num_velocities=8, beat_res={(0, 8): 12}, **config)))


def test_structured() -> None:
    assert_same_notes(Structured(TokenizerConfig(num_velocities=8)))


def assert_same_notes(miditok) -> None:
    ids = random_music(miditok, 600)
    names = token_names(miditok)
    reader = NoteReader(miditok)
    notes, last = [], 0.0
    for index in ids:
        notes += reader.read_all(names[index])
        assert reader.seconds >= last or miditok.config.use_rests
        last = reader.seconds
    score = miditok.decode(ids if miditok.one_token_stream else [ids])
    expected = sorted(
        (event.time, event.pitch, event.velocity, -1 if track.is_drum else track.program, event.duration)
        for track in score.to("second").tracks
        for event in track.notes
    )
    found = sorted((note.onset_s, note.pitch, note.velocity, note.program) for note in notes)
    assert len(found) == len(expected) > 40
    by_time = [(round(onset, 2), *rest) for onset, *rest in found]
    assert sorted(by_time) == sorted((round(onset, 2), *rest) for onset, *rest, _ in expected)
    if not miditok.config.use_tempos:  # a change of tempo within a note is not known at its beginning
        lengths = sorted(note.duration_s for note in notes)
        assert lengths == pytest.approx(sorted(event[-1] for event in expected), abs=1e-3)


def test_half_notes_and_special_tokens_are_passed_over() -> None:
    reader = NoteReader(REMI(TokenizerConfig()))
    assert reader.read_all(["BOS_None", "Bar_None", "Position_8", "Pitch_60", "Velocity_95"]) == []
    assert reader.read_all(["Bar_None", "Duration_1.0.8", "EOS_None"]) == []
    [note] = reader.read_all(["Position_0", "Pitch_61", "Velocity_95", "Duration_1.0.8"])
    assert (note.onset_s, note.duration_s, note.pitch, note.velocity) == (2.0, 0.5, 61, 95)


def test_other_tokenizations_are_refused() -> None:
    with pytest.raises(UsageError, match="MIDILike"):
        NoteReader(MIDILike(TokenizerConfig()))
