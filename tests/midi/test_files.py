"""`read_midi`: what is MIDI is read as other software reads it, and everything else is one typed error, at once."""

import struct
import time
from pathlib import Path

import numpy as np
import pretty_midi
import pytest

from hf_audio_mamba.errors import HFAudioMambaError, MidiError
from hf_audio_mamba.midi import read_midi
from tests.midi.midi_bytes import END_OF_TRACK, meta, midi_file, note, quantity, random_piece

TEMPO_0 = meta(0x51, bytes(3))
ONE_TEMPO = b"\x01\xff\x51\x03\x07\xa1\x20"


def test_notes_are_those_that_pretty_midi_reads(sample_files: list[Path]) -> None:
    for path in sample_files[:3]:
        ours = read_midi(path).to("Second").tracks[0].notes.numpy()
        theirs = sorted(
            (n.start, n.end, n.pitch, n.velocity) for n in pretty_midi.PrettyMIDI(str(path)).instruments[0].notes
        )
        rows = np.stack([ours["time"], ours["time"] + ours["duration"], ours["pitch"], ours["velocity"]], axis=1)
        np.testing.assert_allclose(sorted(map(tuple, rows)), theirs, atol=2e-3)


def test_a_path_and_its_bytes_give_the_same_score(tmp_path: Path) -> None:
    path = tmp_path / "piece.bin"
    path.write_bytes(random_piece(0))
    assert read_midi(path) == read_midi(str(path)) == read_midi(path.read_bytes())


BAD = {
    "empty": (b"", "empty"),
    "no MIDI": (b"RIFF\0\0\0\0WAVEfmt ", "not a MIDI file"),
    "MIDI in RIFF": (b"RIFF\0\0\0\0RMIDdata", "inside RIFF"),
    "half a header": (midi_file(note())[:9], "cut off in its header"),
    "header only": (midi_file(), "0 tracks"),
    "tracks missing": (midi_file(note(), num_tracks=3), "1 of the 3 tracks"),
    "a length that lies": (midi_file(note())[:18] + b"\xff\xff\xff\xff" + note(), "cut off"),
    "header length": (b"MThd" + struct.pack(">IHHH", 7, 0, 1, 480) + bytes(20), "damaged header"),
    "format 2": (midi_file(note(), kind=2), "format 2"),
    "no resolution": (midi_file(note(), resolution=0), "0 ticks per quarter"),
    "SMPTE": (midi_file(note(), resolution=0xE728), "SMPTE"),
    "no notes": (midi_file(meta(0x03, b"name")), "no notes"),
    "a note without end": (midi_file(b"\x00\x90\x3c\x50"), "no notes"),
    "running status of nothing": (midi_file(b"\x00\x01\x02"), "damaged event"),
    "an event past the end": (midi_file(note() + b"\x00\xff\x01\x7f"), "damaged event"),
    "a value past 127": (midi_file(note() + b"\x00\xb0\xff\x01"), "damaged event"),
    "tempo 0": (midi_file(TEMPO_0 + note()), "tempo of 0"),
    "a million tempos": (midi_file(ONE_TEMPO * 1_000_000 + note()), "1,000,000 tempo changes"),
    "0/1": (midi_file(meta(0x58, b"\x00\x00\x18\x08") + note()), "numerator 0"),
    "255/256": (midi_file(meta(0x58, b"\xff\x08\x18\x08") + note()), "denominator beyond 128"),
    "a tick above 10^8": (midi_file(note() + note(200_000_000)), "quarter notes after the beginning"),
    "ticks of 33 bits": (midi_file(note() + note(0x0FFFFFFF) * 9), "later than can be counted"),
    "a stray pedal": (midi_file(note() + quantity(200_000_000) + b"\xb0\x40\x7f"), "quarter notes after the beginning"),
    "a million notes": (midi_file(note(1) * 1_000_000), "1,000,000 notes"),
    "2000 tracks": (midi_file(*[note()] * 2000), "2000 tracks"),
    "33 MB": (midi_file(note()) + bytes(33 << 20), "bytes that are accepted"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_a_typed_error_at_once(name: str) -> None:
    data, message = BAD[name]
    begin = time.process_time()
    with pytest.raises(MidiError, match=message):
        read_midi(data)
    assert time.process_time() - begin < 5


GOOD = {
    "10 MB of SysEx": (midi_file(b"\x00\xf0" + quantity(10_000_000) + b"\1" * 9_999_999 + b"\xf7" + note()), 1),
    "no duration": (midi_file(note(length=0) + note(length=0)), 2),
    "overlap": (midi_file(b"\x00\x90\x3c\x50\x10\x90\x3c\x50\x10\x80\x3c\x00\x10\x80\x3c\x00"), 2),
    "no tempo": (midi_file(note()), 1),
    "128 tracks": (midi_file(*[note()] * 128), 128),
    "drums": (midi_file(note(channel=9)), 1),
    "bytes after the end": (midi_file(note()) + b"\r\n", 1),
    "an unknown chunk": (midi_file(note()) + b"XFIH\0\0\0\2ab", 1),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_odd_but_sound_is_read(name: str) -> None:
    data, notes = GOOD[name]
    assert read_midi(data).note_num() == notes


def test_a_file_cut_off_at_any_byte_is_an_error() -> None:
    data = random_piece(1, notes=110)
    assert len(data) > 900
    for length in range(len(data)):
        with pytest.raises(MidiError):
            read_midi(data[:length])


def test_a_track_cut_off_at_any_byte_has_the_notes_before_it_or_is_an_error() -> None:
    events = note(30) * 40
    each = len(note(30))
    counts = []
    for length in range(len(events)):
        track = events[:length]
        data = midi_file(b"")[:18] + struct.pack(">I", length) + track
        try:
            counts.append(read_midi(data).note_num() == length // each)
        except MidiError:
            counts.append(True)
    assert all(counts)


def test_random_damage_never_ends_in_another_error() -> None:
    data = bytearray(random_piece(2, notes=60) + END_OF_TRACK)
    generator = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(data)
        for position in generator.integers(0, len(data), size=3):
            damaged[position] = generator.integers(256)
        try:
            read_midi(bytes(damaged))
        except MidiError:
            continue


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MidiError, match=r"absent\.mid.*No such file"):
        read_midi(tmp_path / "absent.mid")
    with pytest.raises(HFAudioMambaError, match="directory"):
        read_midi(tmp_path)
