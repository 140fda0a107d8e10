"""Standard MIDI Files written byte by byte, and small pieces to train tokenizers on."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

END_OF_TRACK = b"\x00\xff\x2f\x00"


def quantity(number: int) -> bytes:
    """A number of variable length."""
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F | 0x80)
    return bytes(reversed(groups))


def note(delta: int = 0, pitch: int = 60, velocity: int = 80, length: int = 240, channel: int = 0) -> bytes:
    on, off = 0x90 | channel, 0x80 | channel
    return quantity(delta) + bytes([on, pitch, velocity]) + quantity(length) + bytes([off, pitch, 0])


def meta(kind: int, content: bytes) -> bytes:
    return b"\x00\xff" + bytes([kind]) + quantity(len(content)) + content


def midi_file(*tracks: bytes, resolution: int = 480, kind: int | None = None, num_tracks: int | None = None) -> bytes:
    """A file of tracks, each closed here; header fields that lie are up to the caller."""
    kind = int(len(tracks) > 1) if kind is None else kind
    count = len(tracks) if num_tracks is None else num_tracks
    header = b"MThd" + struct.pack(">IHHH", 6, kind, count, resolution)
    closed = (track + END_OF_TRACK for track in tracks)
    return header + b"".join(b"MTrk" + struct.pack(">I", len(track)) + track for track in closed)


def random_piece(seed: int, notes: int = 120, *, pedals: bool = False) -> bytes:
    """Broken chords that wander about, one note after the other."""
    generator = np.random.default_rng(seed)
    root, track = 60, b""
    for index in range(notes):
        if index % 8 == 0:
            root = int(np.clip(root + generator.integers(-5, 6), 45, 75))
            if pedals:
                track += b"\x00\xb0\x40\x7f" if index % 16 == 0 else b"\x00\xb0\x40\x00"
        pitch = root + int(generator.choice([0, 4, 7, 12]))
        velocity, length = int(generator.integers(40, 100)), int(generator.choice([120, 240, 480]))
        track += note(int(generator.choice([0, 40, 120])), pitch, velocity, length)
    return midi_file(track)


def write_pieces(folder: Path, seeds: Sequence[int], suffix: str = ".mid") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"piece{seed}{suffix}" for seed in seeds]
    for path, seed in zip(paths, seeds, strict=True):
        path.write_bytes(random_piece(seed))
    return paths
