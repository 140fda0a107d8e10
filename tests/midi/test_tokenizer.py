"""`MidiTokenizer`: MidiTok's ids, the same music back, and a good citizen among tokenizers."""

import copy
import json
import logging
import pickle
from collections import Counter
from pathlib import Path

import miditok
import numpy as np
import pytest
import torch
from symusic import Score
from tokenizers import Tokenizer, models
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    PreTrainedTokenizerFast,
)

import hf_audio_mamba  # noqa: F401  # makes the tokenizer known to AutoTokenizer
from hf_audio_mamba.errors import CheckpointError, DataError, MidiError, UsageError
from hf_audio_mamba.midi import MidiTokenizer, read_midi
from tests.midi.midi_bytes import midi_file, note, random_piece

PIECES = [random_piece(seed, pedals=True) for seed in range(6)]


def quantised_notes(score: Score, step: float) -> Counter[tuple[int, int]]:
    """Pitch and onset in steps of a grid."""
    notes = score.tracks[0].notes.numpy()
    onsets = np.round(notes["time"] / score.ticks_per_quarter / step).astype(int)
    return Counter(zip(notes["pitch"].tolist(), onsets.tolist(), strict=True))


@pytest.mark.parametrize("tokenization", ["REMI", "TSD", "MIDILike", "Structured"])
@pytest.mark.parametrize("vocab_size", [None, 360])
def test_ids_are_miditoks(tokenization: str, vocab_size: int | None, tmp_path: Path) -> None:
    tokenizer = MidiTokenizer.train(PIECES, vocab_size=vocab_size, tokenization=tokenization)
    tokenizer.save_pretrained(tmp_path)
    # As a user of MidiTok without this package would load it.
    theirs = getattr(miditok, tokenization)(params=tmp_path / "miditok.json")
    assert len(tokenizer) == len(theirs) == (vocab_size or len(theirs.vocab))
    for piece in PIECES:
        assert tokenizer.encode_midi(piece) == theirs(Score.from_midi(piece))[0].ids


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_sustain_pedals": True},
        {"use_tempos": True, "use_time_signatures": True},
        {"use_programs": True},
        {"tokenization": "TSD", "beat_resolution": 24},
        {"tokenization": "Structured"},
    ],
    ids=str,
)
def test_music_comes_back_on_the_grid(options: dict[str, object]) -> None:
    tokenizer = MidiTokenizer.train(PIECES, vocab_size=700, **options)  # type: ignore[arg-type]
    step = 1 / float(options.get("beat_resolution", 12))  # type: ignore[arg-type]
    for piece in PIECES:
        original, ids = read_midi(piece), tokenizer.encode_midi(piece)
        score = tokenizer.decode_midi(ids)
        assert quantised_notes(score, step) == quantised_notes(original, step)
        assert tokenizer.encode_midi(score) == ids
        if "use_sustain_pedals" in options:
            assert len(score.tracks[0].pedals) == len(original.tracks[0].pedals) > 0


def test_performances_come_back(sample_files: list[Path]) -> None:
    tokenizer = MidiTokenizer.train(sample_files[:4], vocab_size=500)
    for path in sample_files:
        ids = tokenizer.encode_midi(path)
        original, score = read_midi(path), tokenizer.decode_midi(np.array(ids))
        assert 0.99 * original.note_num() <= score.note_num() <= original.note_num()
        assert tokenizer.miditok.tokens_errors([ids]) == [0.0]
        onsets = [max(s.to("Second").tracks[0].notes.numpy()["time"]) for s in (original, score)]
        assert abs(onsets[0] - onsets[1]) < 0.03


def test_merges_shorten_and_decode_to_base_tokens(midi_tokenizer: MidiTokenizer) -> None:
    words = midi_tokenizer.encode_words(PIECES[0])
    merged = midi_tokenizer.merge_words(words)
    assert sum(map(len, merged)) < sum(map(len, words))
    vocabulary = midi_tokenizer.miditok.vocab
    for word, ids in zip(words, merged, strict=True):
        assert [vocabulary[name] for i in ids for name in midi_tokenizer.base_names[i]] == word


def test_merges_are_those_that_miditok_learns(tmp_path: Path) -> None:
    ours = MidiTokenizer.train(PIECES, vocab_size=400)
    theirs = copy.deepcopy(MidiTokenizer.train(PIECES, vocab_size=None).miditok)
    paths = [tmp_path / f"{index}.mid" for index in range(len(PIECES))]
    for path, piece in zip(paths, PIECES, strict=True):
        path.write_bytes(piece)
    theirs.train(vocab_size=400, model="BPE", files_paths=paths)
    assert ours.miditok == theirs
    assert ours.miditok.to_dict()["_model"] == theirs.to_dict()["_model"]


def test_a_miditok_tokenizer_can_be_given() -> None:
    given = miditok.TSD(miditok.TokenizerConfig())
    tokenizer = MidiTokenizer(given)
    assert tokenizer.encode_midi(PIECES[0]) == given(Score.from_midi(PIECES[0]))[0].ids
    with pytest.raises(UsageError, match="first tokens"):
        MidiTokenizer(miditok.REMI(miditok.TokenizerConfig(special_tokens=["PAD", "EOS", "BOS"])))
    with pytest.raises(UsageError, match="CPWord"):
        MidiTokenizer(miditok.CPWord())
    with pytest.raises(UsageError, match=r"MidiTokenizer\.train"):
        MidiTokenizer()


def test_types_are_the_sequence_of_base_types(midi_tokenizer: MidiTokenizer) -> None:
    assert [midi_tokenizer.token_types(i) for i in range(3)] == [("PAD",), ("BOS",), ("EOS",)]
    pitch = midi_tokenizer.miditok.vocab["Pitch_60"]
    assert midi_tokenizer.token_types(pitch) == ("Pitch",)
    merged = {midi_tokenizer.token_types(i) for i in range(268, 330)}
    assert ("Pitch", "Velocity") in merged or ("Velocity", "Duration") in merged
    with pytest.raises(MidiError, match=r"-1.*330 ids"):
        midi_tokenizer.token_types(-1)


@pytest.mark.parametrize("config", [MambaConfig, LlamaConfig, GPT2Config])
def test_auto_tokenizer_loads_it_beside_a_model(midi_tokenizer: MidiTokenizer, config: type, tmp_path: Path) -> None:
    config(vocab_size=330, bos_token_id=1, eos_token_id=2, pad_token_id=0).save_pretrained(tmp_path)
    midi_tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is MidiTokenizer
    assert (loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id) == (0, 1, 2)
    assert loaded.miditok == midi_tokenizer.miditok
    assert loaded.encode_midi(PIECES[0]) == midi_tokenizer.encode_midi(PIECES[0])


def test_other_mamba_models_keep_their_tokenizer(tmp_path: Path) -> None:
    text = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"la": 0, "[UNK]": 1}, unk_token="[UNK]")), unk_token="[UNK]"
    )
    text.save_pretrained(tmp_path)
    MambaConfig(vocab_size=2).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert not isinstance(loaded, MidiTokenizer)
    assert loaded("la")["input_ids"] == [0]


def test_its_tokenizer_json_is_a_tokenizer_of_its_own(midi_tokenizer: MidiTokenizer, tmp_path: Path) -> None:
    midi_tokenizer.save_pretrained(tmp_path)
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    words = midi_tokenizer.encode_words(PIECES[0])
    text = ["".join(chr(33 + number) for number in word) for word in words]
    assert theirs.encode(text, is_pretokenized=True).ids == midi_tokenizer.encode_midi(PIECES[0])
    assert theirs.token_to_id("EOS_None") == 2
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "MidiTokenizer"


def test_it_pads_collates_copies_and_pickles(midi_tokenizer: MidiTokenizer) -> None:
    long, short = midi_tokenizer.encode_midi(PIECES[0]), midi_tokenizer.encode_midi(PIECES[1])[:20]
    batch = DataCollatorForLanguageModeling(midi_tokenizer, mlm=False)([{"input_ids": long}, {"input_ids": short}])
    assert batch["input_ids"].shape == (2, len(long))
    assert batch["attention_mask"].sum().item() == len(long) + 20
    for twin in (copy.deepcopy(midi_tokenizer), pickle.loads(pickle.dumps(midi_tokenizer))):
        assert twin.encode_midi(PIECES[0]) == long
    assert midi_tokenizer.encode_midi(PIECES[0], add_special_tokens=True) == [1, *long, 2]


def test_tracks_become_one_piano_and_drums_are_left_out(midi_tokenizer: MidiTokenizer) -> None:
    melody, bass = note(0, 72) + note(240, 76), note(0, 40, length=960)
    apart = midi_file(melody, bass, note(channel=9))
    together = midi_file(
        b"\x00\x90\x48\x50\x00\x90\x28\x50\x81\x70\x80\x48\x00\x81\x70\x90\x4c\x50\x81\x70\x80\x4c\x00"
        b"\x81\x70\x80\x28\x00"
    )
    assert midi_tokenizer.encode_midi(apart) == midi_tokenizer.encode_midi(together)
    with pytest.raises(MidiError, match="drum tracks only"):
        midi_tokenizer.encode_midi(midi_file(note(channel=9)))
    with pytest.raises(MidiError, match="range of a piano"):
        midi_tokenizer.encode_midi(midi_file(note(pitch=5)))
    bands = MidiTokenizer.train([apart], vocab_size=None, use_programs=True)
    assert len(bands.decode_midi(bands.encode_midi(apart)).tracks) == 2


def test_a_score_stays_as_it_is(midi_tokenizer: MidiTokenizer) -> None:
    score = read_midi(PIECES[0])
    before = score.copy()
    assert midi_tokenizer.encode_midi(score) == midi_tokenizer.encode_midi(PIECES[0])
    assert score == before


@pytest.mark.parametrize("ids", [[], [1], [0, 0], [1, 2], np.zeros(3, dtype=int), torch.tensor([1, 2])], ids=str)
def test_ids_without_music_are_an_empty_score(midi_tokenizer: MidiTokenizer, ids: object, tmp_path: Path) -> None:
    score = midi_tokenizer.decode_midi(ids)
    assert score.note_num() == len(score.tracks) == 0
    score.dump_midi(tmp_path / "empty.mid")
    with pytest.raises(MidiError):
        read_midi(tmp_path / "empty.mid")


@pytest.mark.parametrize("ids", [[330], [-1], [5, 10**9], [[1, 2]], [1.5], ["a"], [True]], ids=str)
def test_ids_that_are_none_are_refused(midi_tokenizer: MidiTokenizer, ids: list[object]) -> None:
    with pytest.raises(MidiError, match=r"ids\["):
        midi_tokenizer.decode_midi(ids)


@pytest.mark.parametrize("tokenization", ["REMI", "TSD", "MIDILike", "Structured"])
def test_any_stream_of_ids_decodes(tokenization: str) -> None:
    tokenizer = MidiTokenizer.train(
        PIECES, vocab_size=380, tokenization=tokenization, use_sustain_pedals=(tokenization != "Structured")
    )
    generator = np.random.default_rng(3)
    for _ in range(30):
        score = tokenizer.decode_midi(generator.integers(0, len(tokenizer), size=200))
        assert score.note_num() >= 0


def test_training_leaves_out_what_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        damaged = MidiTokenizer.train([*PIECES, b"no MIDI"], vocab_size=300)
    assert "1 of 7 pieces" in caplog.text
    assert damaged.miditok == MidiTokenizer.train(PIECES, vocab_size=300).miditok
    with pytest.raises(DataError, match="1 of 1 pieces"):
        MidiTokenizer.train([b"no MIDI"], vocab_size=300)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 200}, "base tokens alone are 268"),
        ({"tokenization": "Octuple"}, "Octuple.*REMI"),
        ({"beat_resolution": 0}, "beat_resolution is 0"),
        ({"num_velocities": 128}, "num_velocities is 128"),
        ({"tokenization": "Structured", "use_tempos": True}, "no tokens for"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MidiTokenizer.train(PIECES, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"tokenization": "os"}', '{"tokenization": "MMM"}', None])
def test_a_damaged_folder_is_refused(midi_tokenizer: MidiTokenizer, content: str | None, tmp_path: Path) -> None:
    midi_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "miditok.json").unlink()
    if content is not None:
        (tmp_path / "miditok.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"miditok\.json"):
        AutoTokenizer.from_pretrained(tmp_path)
