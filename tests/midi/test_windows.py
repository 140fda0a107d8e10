"""Encoded pieces and the windows cut from them."""

import logging
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_audio_mamba.errors import DataError, OutputError, UsageError
from hf_audio_mamba.midi import MidiTokenizer, TokenWindows, WindowCollator, load_midi_dataset, read_midi
from hf_audio_mamba.midi.dataset import count_notes, piece_ids
from hf_audio_mamba.midi.encoding import EncodedPiece, encode_piece, encode_pieces
from tests.midi.midi_bytes import midi_file, note, random_piece, write_pieces

SEEDS = range(20, 25)


@pytest.fixture(scope="module")
def encoded(midi_tokenizer: MidiTokenizer) -> list[EncodedPiece]:
    pieces = [encode_piece(midi_tokenizer, random_piece(seed)) for seed in SEEDS]
    return [piece for piece in pieces if not isinstance(piece, str)]


def stream(tokenizer: MidiTokenizer) -> list[int]:
    return [i for seed in SEEDS for i in tokenizer.encode_midi(random_piece(seed), add_special_tokens=True)]


def test_pieces_are_those_that_the_tokenizer_gives(midi_tokenizer: MidiTokenizer, encoded: list[EncodedPiece]) -> None:
    assert [i for piece in encoded for i in piece_ids(piece, midi_tokenizer)] == stream(midi_tokenizer)
    assert count_notes(encoded, midi_tokenizer) == sum(read_midi(random_piece(seed)).note_num() for seed in SEEDS)


@pytest.mark.parametrize("length", [2, 7, 64, 10_000])
def test_evaluation_windows_tile_the_pieces(
    midi_tokenizer: MidiTokenizer, encoded: list[EncodedPiece], length: int
) -> None:
    windows = TokenWindows(encoded, midi_tokenizer, length)
    parts = [windows[index]["input_ids"].tolist() for index in range(len(windows))]
    assert all(len(part) == length for part in parts[:-1])
    assert parts[0] + [i for part in parts[1:] for i in part[1:]] == stream(midi_tokenizer)
    assert windows.num_tokens == len(stream(midi_tokenizer))
    with pytest.raises(IndexError):
        windows[len(windows)]


def test_training_windows_begin_elsewhere_each_epoch_and_cover_all(
    midi_tokenizer: MidiTokenizer, encoded: list[EncodedPiece]
) -> None:
    windows = TokenWindows(encoded, midi_tokenizer, 50, training=True, seed=3)
    tokens = stream(midi_tokenizer)
    around = tokens + tokens
    begins = set()
    for epoch in range(4):
        windows.set_epoch(epoch)
        parts = [windows[index]["input_ids"].tolist() for index in range(len(windows))]
        joined = parts[0] + [i for part in parts[1:] for i in part[1:]]
        begin = next(b for b in range(49) if around[b : b + len(joined)] == joined)
        assert len(joined) > len(tokens) - 50
        begins.add(begin)
    assert len(begins) > 1


def test_augmented_windows_are_a_function_of_seed_epoch_and_index(
    midi_tokenizer: MidiTokenizer, encoded: list[EncodedPiece]
) -> None:
    def windows(seed: int) -> TokenWindows:
        return TokenWindows(encoded, midi_tokenizer, 40, training=True, transpose=5, velocity=1, seed=seed)

    first, again, other = windows(0), windows(0), windows(1)
    for index in reversed(range(5)):
        assert torch.equal(first[index]["input_ids"], again[index]["input_ids"])
    assert any(not torch.equal(first[index]["input_ids"], other[index]["input_ids"]) for index in range(5))
    again.set_epoch(1)
    assert any(not torch.equal(first[index]["input_ids"], again[index]["input_ids"]) for index in range(5))


def test_a_transposed_window_is_the_transposed_piece(midi_tokenizer: MidiTokenizer) -> None:
    def piece(shift: int) -> bytes:
        return midi_file(b"".join(note(60, 60 + shift + i % 7, 70, 120) for i in range(200)))

    source = encode_piece(midi_tokenizer, piece(0))
    assert isinstance(source, EncodedPiece)
    windows = TokenWindows([source], midi_tokenizer, 64, training=True, transpose=3)
    whole = {shift: [1, *midi_tokenizer.encode_midi(piece(shift)), 2] for shift in range(-3, 4)}
    seen = set()
    for epoch in range(12):
        windows.set_epoch(epoch)
        part = windows[1]["input_ids"].tolist()
        found = [s for s, ids in whole.items() if any(ids[b : b + 64] == part for b in range(len(ids)))]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) >= 4


def test_augmentation_keeps_within_range(midi_tokenizer: MidiTokenizer) -> None:
    high = encode_piece(midi_tokenizer, midi_file(b"".join(note(60, 102 + i % 7, 126, 120) for i in range(80))))
    assert isinstance(high, EncodedPiece)
    windows = TokenWindows([high], midi_tokenizer, 64, training=True, transpose=12, velocity=3)
    for epoch in range(10):
        windows.set_epoch(epoch)
        names = [n for i in windows[0]["input_ids"].tolist() for n in midi_tokenizer.base_names[i]]
        pitches = [int(n.partition("_")[2]) for n in names if n.startswith("Pitch")]
        # The melody climbs by semitones: steps that are no transposition would show here.
        steps = {b - a for a, b in pairwise(pitches)}
        assert steps <= {1, -6}
        assert max(pitches) <= 108
        assert {int(n.partition("_")[2]) for n in names if n.startswith("Velocity")} <= set(range(115, 128))


def test_batches_have_labels_where_there_are_tokens() -> None:
    batch = WindowCollator(0)([{"input_ids": torch.tensor([1, 5, 6])}, {"input_ids": torch.tensor([7, 8])}])
    assert batch["input_ids"].tolist() == [[1, 5, 6], [7, 8, 0]]
    assert batch["labels"].tolist() == [[1, 5, 6], [7, 8, -100]]


def test_each_piece_is_encoded_once(
    midi_tokenizer: MidiTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [random_piece(seed) for seed in SEEDS]
    first = encode_pieces(midi_tokenizer, sources, cache_dir=tmp_path)
    kept = sorted(tmp_path.rglob("*.npz"))
    assert len(kept) == len(sources)
    kept[0].write_bytes(kept[0].read_bytes()[:50])

    calls = []
    original = MidiTokenizer.encode_words
    monkeypatch.setattr(MidiTokenizer, "encode_words", lambda self, source: calls.append(1) or original(self, source))
    again = encode_pieces(midi_tokenizer, sources, cache_dir=tmp_path)
    assert len(calls) == 1
    for one, two in zip(first, again, strict=True):
        assert isinstance(one, EncodedPiece)
        assert isinstance(two, EncodedPiece)
        np.testing.assert_array_equal(one.base_ids, two.base_ids)
        np.testing.assert_array_equal(one.num_ids, two.num_ids)
    other = MidiTokenizer.train(sources, vocab_size=300)
    encode_pieces(other, sources, cache_dir=tmp_path)
    assert len(calls) == 1 + 2 * len(sources)


@pytest.mark.slow
def test_processes_give_the_same_as_one(midi_tokenizer: MidiTokenizer) -> None:
    sources = [random_piece(seed, notes=20) for seed in range(64)]
    apart = encode_pieces(midi_tokenizer, [*sources, b"no MIDI"], num_workers=2)
    together = encode_pieces(midi_tokenizer, [*sources, b"no MIDI"])
    assert apart[-1] == together[-1] != ""
    for one, two in zip(apart[:-1], together[:-1], strict=True):
        assert isinstance(one, EncodedPiece)
        assert isinstance(two, EncodedPiece)
        assert one.words() == two.words()


def test_unreadable_pieces_are_left_out_up_to_a_bound(
    midi_tokenizer: MidiTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_pieces(tmp_path / "train", range(3))
    write_pieces(tmp_path / "validation", [5])
    write_pieces(tmp_path / "test", [6])
    (tmp_path / "train" / "broken.mid").write_bytes(b"MThd")
    with pytest.raises(DataError, match=r"1 of 4 pieces.*broken\.mid"):
        load_midi_dataset(tmp_path, midi_tokenizer)
    with caplog.at_level(logging.WARNING):
        dataset = load_midi_dataset(tmp_path, midi_tokenizer, max_corrupt_fraction=0.3)
    assert "broken.mid" in caplog.text
    assert dataset.skipped == 1
    assert dataset.names["train"] == ["train/piece0.mid", "train/piece1.mid", "train/piece2.mid"]
    assert dataset.num_tokens("test") == len(midi_tokenizer.encode_midi(random_piece(6))) + 2


def test_settings_that_cannot_be_are_refused(
    midi_tokenizer: MidiTokenizer, encoded: list[EncodedPiece], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="context_length is 1"):
        TokenWindows(encoded, midi_tokenizer, 1)
    with pytest.raises(UsageError, match="transpose is 13"):
        TokenWindows(encoded, midi_tokenizer, 8, transpose=13)
    with pytest.raises(DataError, match="too few for one window"):
        TokenWindows(encoded, midi_tokenizer, 100_000, training=True)
    with pytest.raises(DataError, match="no pieces"):
        TokenWindows([], midi_tokenizer, 8)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cache"):
        encode_pieces(midi_tokenizer, [random_piece(0)], cache_dir=tmp_path / "file")
