"""Scores as arrays of notes, against pretty_midi."""

import io
from pathlib import Path

import numpy as np
import pretty_midi
import pytest
from symusic import Note, Score, Tempo, Track

from hf_audio_mamba.midi import music_seconds, note_array, read_midi


def scored() -> Score:
    """Two tracks and drums, a tempo that changes, notes that begin together."""
    generator = np.random.default_rng(0)
    score = Score(480)
    score.tempos.extend([Tempo(0, 120), Tempo(960, 60), Tempo(4000, 200)])
    for program, is_drum in ((0, False), (40, False), (0, True)):
        track = Track(program=program, is_drum=is_drum)
        # No pitch twice: readers differ in which of two overlapping notes ends first.
        for pitch in generator.permutation(np.arange(30, 100))[:30]:
            time, length, velocity = generator.integers([0, 1, 1], [20, 300, 128])
            track.notes.append(Note(int(time) * 240, int(length), int(pitch), int(velocity)))
        score.tracks.append(track)
    return score


def by_rounded_time(notes: np.ndarray) -> np.ndarray:
    return notes[np.lexsort((*notes[:, 3:0:-1].round(6).T, notes[:, 0].round(6)))]


def test_notes_are_those_of_pretty_midi_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "a.mid"
    scored().dump_midi(path)
    read = read_midi(path)
    other = pretty_midi.PrettyMIDI(io.BytesIO(path.read_bytes()))
    pitched = [note for part in other.instruments if not part.is_drum for note in part.notes]
    expected = np.array([(n.start, n.pitch, n.end - n.start, n.velocity) for n in pitched])
    notes = note_array(read)
    assert notes.dtype == np.float64
    assert np.allclose(by_rounded_time(notes), by_rounded_time(expected), rtol=0, atol=1e-9)
    assert np.array_equal(notes, notes[np.lexsort((notes[:, 1], notes[:, 0]))])
    ends = [note.end for part in other.instruments for note in part.notes]
    assert music_seconds(read) == pytest.approx(max(ends), abs=1e-9)


def test_a_score_without_notes_has_none() -> None:
    assert note_array(Score(480)).shape == (0, 4)
    assert music_seconds(Score(480)) == 0
