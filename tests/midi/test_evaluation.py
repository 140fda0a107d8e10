"""Evaluation of models and music, against sums and sets made here."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from hf_audio_mamba import use_fast_mamba
from hf_audio_mamba.errors import DataError, MidiError, UsageError
from hf_audio_mamba.metrics import NoteCopyRate, NoteHistogramSimilarity, grammar_error_rate
from hf_audio_mamba.midi import (
    MidiTokenizer,
    check_equal_grids,
    describe_music,
    evaluate_model,
    find_music,
    music_grid,
    music_seconds,
    note_array,
    read_midi,
    read_pieces,
)
from tests.midi.midi_bytes import random_piece, write_pieces


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    write_pieces(tmp_path / "held_out", range(20, 23))
    return find_music([tmp_path / "held_out"])


def small_mamba(vocabulary: int) -> MambaForCausalLM:
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=vocabulary, hidden_size=16, num_hidden_layers=1, state_size=4)
    return use_fast_mamba(MambaForCausalLM(config)).eval()


def test_pieces_are_the_tokenizers_ids_and_notes(midi_tokenizer: MidiTokenizer, files: list[Path]) -> None:
    pieces = read_pieces(midi_tokenizer, files)
    assert [piece.name for piece in pieces] == [str(path) for path in files]
    for path, piece in zip(files, pieces, strict=True):
        assert piece.ids == midi_tokenizer.encode_midi(path, add_special_tokens=True)
        assert (piece.ids[0], piece.ids[-1]) == (1, 2)
        assert np.array_equal(piece.notes, note_array(midi_tokenizer.decode_midi(piece.ids)))
        assert piece.seconds == music_seconds(read_midi(path))
        assert len(piece.notes) == 120


def test_ids_of_generated_music_are_read_in_each_form(midi_tokenizer: MidiTokenizer, tmp_path: Path) -> None:
    ids = midi_tokenizer.encode_midi(random_piece(1), add_special_tokens=True)
    forms = {"list": ids, "lists": [ids, [1, 2]], "miditok": {"ids": [ids]}, "empty": []}
    for name, content in forms.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "a.mid").write_bytes(random_piece(1))
    paths = find_music([tmp_path], ids=True)
    pieces = read_pieces(midi_tokenizer, paths)
    assert [Path(piece.name).name for piece in pieces] == [
        "a.mid",
        "empty.json",
        "list.json",
        "lists.json[0]",
        "lists.json[1]",
        "miditok.json",
    ]
    assert [piece.ids for piece in pieces] == [ids, [], ids, ids, [1, 2], ids]
    assert [len(piece.notes) for piece in pieces] == [120, 0, 120, 120, 0, 120]
    assert find_music([tmp_path]) == [tmp_path / "a.mid"]


def test_a_model_is_scored_by_sums_over_pieces(midi_tokenizer: MidiTokenizer, files: list[Path]) -> None:
    model = small_mamba(len(midi_tokenizer))
    pieces = read_pieces(midi_tokenizer, files)
    scored = evaluate_model(model, pieces, part=50)
    total = tokens = 0.0
    for piece, row in zip(pieces, scored.pieces, strict=True):
        with torch.no_grad():
            tensor = torch.tensor([piece.ids])
            mean = model(tensor, labels=tensor).loss.item()
        assert row["name"] == piece.name
        assert row["nats_per_token"] == pytest.approx(mean, rel=1e-5)
        total, tokens = total + mean * (len(piece.ids) - 1), tokens + len(piece.ids) - 1
    assert scored.scores["nats_per_token"] == pytest.approx(total / tokens, rel=1e-5)
    assert scored.scores["bits_per_note"] == pytest.approx(total / math.log(2) / 360, rel=1e-5)
    seconds = sum(music_seconds(read_midi(path)) for path in files)
    assert scored.scores["bits_per_second"] == pytest.approx(total / math.log(2) / seconds, rel=1e-5)
    assert sum(row.tokens for row in scored.positions) == tokens
    assert scored.context.window is None
    assert evaluate_model(model, pieces, window=8).context.window == 8


def test_long_pieces_have_rows_of_their_own(midi_tokenizer: MidiTokenizer, tmp_path: Path) -> None:
    paths = []
    for notes in (10, 120, 110):
        paths.append(tmp_path / f"{notes}.mid")
        paths[-1].write_bytes(random_piece(notes, notes))
    scored = evaluate_model(small_mamba(len(midi_tokenizer)), read_pieces(midi_tokenizer, paths))
    assert scored.positions[0].pieces == 3
    assert scored.long_positions[0].pieces == 2


def test_music_is_described_as_the_metrics_do(midi_tokenizer: MidiTokenizer, files: list[Path]) -> None:
    training = [midi_tokenizer.encode_midi(random_piece(seed)) for seed in range(3)]
    generator = np.random.default_rng(0)
    generated = [*(list(map(int, generator.integers(3, len(midi_tokenizer), 300))) for _ in range(2)), [1, 2]]
    sets = []
    for index, sequences in enumerate((training, generated)):
        path = files[0].parent / f"{index}.json"
        path.write_text(json.dumps(sequences))
        sets.append(read_pieces(midi_tokenizer, [path]))
    held_out = read_pieces(midi_tokenizer, files)
    found = describe_music(sets[1], tokenizer=midi_tokenizer, held_out=held_out, training=sets[0], copy_lengths=[2, 3])
    notes = [piece.notes for piece in sets[1]]
    similarity = NoteHistogramSimilarity([piece.notes for piece in held_out]).compute(predictions=notes)
    copies = NoteCopyRate([piece.notes for piece in sets[0]], lengths=[2, 3]).compute(predictions=notes)
    rate = grammar_error_rate(midi_tokenizer.miditok, generated)
    assert 0.1 < rate < 1
    assert found == {
        **similarity,
        **copies,
        "pieces": 3,
        "empty_pieces": 1,
        "seconds": pytest.approx(sum(piece.seconds for piece in sets[1])),
        "grammar_error_rate": rate,
    }
    assert 0 < found["pitch_copy_rate_2"] < 1
    alone = describe_music(held_out, tokenizer=midi_tokenizer)
    assert set(alone) == {"pieces", "empty_pieces", "notes", "seconds", "grammar_error_rate"}
    assert alone["grammar_error_rate"] == 0


def test_generations_without_notes_have_no_statistics(midi_tokenizer: MidiTokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[[], [1], [1, 2]]")
    (tmp_path / "b.mid").write_bytes(random_piece(0))
    empty, other = read_pieces(midi_tokenizer, [tmp_path / "a.json"]), read_pieces(midi_tokenizer, [tmp_path / "b.mid"])
    found = describe_music(empty, tokenizer=midi_tokenizer, held_out=other, training=other)
    assert (found["notes"], found["empty_pieces"], found["seconds"]) == (0, 3, 0)
    assert math.isnan(found["velocity_overlap"])
    assert math.isnan(found["pitch_copy_rate_4"])
    for role, message in (("held_out", "held-out music has no notes"), ("training", "training holds no notes")):
        with pytest.raises(DataError, match=message):
            describe_music(other, tokenizer=midi_tokenizer, **{role: empty})


def test_only_equal_grids_are_compared(midi_tokenizer: MidiTokenizer) -> None:
    same = MidiTokenizer.train([random_piece(9)], vocab_size=None)
    finer = MidiTokenizer.train([random_piece(9)], vocab_size=None, beat_resolution=24)
    pedals = MidiTokenizer.train([random_piece(9)], vocab_size=None, use_sustain_pedals=True)
    grid = music_grid(midi_tokenizer)
    check_equal_grids([grid, music_grid(same)], ["a", "b"])
    with pytest.raises(UsageError, match="a and c have tokenizers that differ in beat_resolution, base_tokens"):
        check_equal_grids([grid, music_grid(same), music_grid(finer)], ["a", "b", "c"])
    with pytest.raises(UsageError, match="differ in base_tokens"):
        check_equal_grids([grid, music_grid(pedals)], ["a", "b"])


@pytest.mark.parametrize(
    "content", ["{", "3", '{"tokens": []}', '[1, "2"]', "[[1], 2]", "[1.5]", "[true]", "[" * 100_000]
)
def test_json_that_is_no_ids_is_named(midi_tokenizer: MidiTokenizer, tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=r"a\.json"):
        read_pieces(midi_tokenizer, [tmp_path / "a.json"])


def test_files_that_cannot_be_used_are_named(midi_tokenizer: MidiTokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[[1, 2], [1, 100000]]")
    (tmp_path / "b.mid").write_bytes(random_piece(0)[:100])
    with pytest.raises(MidiError, match=r"a\.json\[1\].*100000"):
        read_pieces(midi_tokenizer, [tmp_path / "a.json"])
    with pytest.raises(MidiError, match=r"b\.mid"):
        read_pieces(midi_tokenizer, [tmp_path / "b.mid"])
    with pytest.raises(DataError, match="nowhere does not exist"):
        find_music([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no files that end in \.mid, \.midi"):
        find_music([tmp_path / "empty"])
    with pytest.raises(DataError, match="no pieces to score"):
        evaluate_model(small_mamba(9), [])
