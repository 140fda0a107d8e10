"""The grammar against MidiTok's own count of errors, and against music that it must not refuse."""

import numpy as np
import pytest
import torch
from miditok import REMI, TSD, Structured, TokenizerConfig

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.midi import MidiGrammar, MidiGrammarLogitsProcessor, MidiTokenizer
from hf_audio_mamba.midi.grammar import ban
from hf_audio_mamba.midi.vocabulary import token_names
from tests.midi.midi_bytes import midi_file, note, random_piece
from tests.midi.music_models import errors, llama, mamba, random_music

OPTIONS = [
    {},
    {"use_time_signatures": True},
    {"use_tempos": True, "use_sustain_pedals": True},
    {"use_programs": True, "use_tempos": True, "use_time_signatures": True},
    {"tokenization": "TSD"},
    {"tokenization": "TSD", "use_programs": True, "use_sustain_pedals": True},
    {"tokenization": "Structured"},
]
CONFIGS = [
    {"use_rests": True, "use_time_signatures": True},
    {"use_chords": True, "use_programs": True},
    {"use_velocities": False},
    {"use_pitch_intervals": True},
    {"use_sustain_pedals": True, "sustain_pedal_duration": True},
    {"remove_duplicated_notes": True, "use_programs": True},
]


def trained(**options: object) -> MidiTokenizer:
    pieces = [random_piece(seed, pedals=True) for seed in range(4)]
    size = len(MidiTokenizer.train(pieces, vocab_size=None, **options))
    return MidiTokenizer.train(pieces, vocab_size=size + 60, **options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_the_grammar_allows_has_no_errors(options: dict[str, object]) -> None:
    tokenizer = trained(**options)
    ids = random_music(tokenizer.miditok, 800)
    assert len(set(ids) - set(range(len(tokenizer.miditok.vocab)))) > 5  # learned merges took part
    assert min(ids) > tokenizer.eos_token_id
    assert errors(tokenizer.miditok, ids) == 0
    assert tokenizer.decode_midi(ids).note_num() > 50


@pytest.mark.parametrize("kind", [REMI, TSD])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_other_configurations_of_miditok(kind: type, config: dict[str, bool]) -> None:
    miditok = kind(TokenizerConfig(num_velocities=8, beat_res={(0, 8): 12}, **config))
    assert errors(miditok, random_music(miditok, 800)) == 0


def test_structured_of_miditok() -> None:
    miditok = Structured(TokenizerConfig(num_velocities=8))
    assert errors(miditok, random_music(miditok, 400)) == 0


def test_without_the_grammar_there_are_errors(midi_tokenizer: MidiTokenizer) -> None:
    ids = np.random.default_rng(0).integers(3, len(midi_tokenizer), 400).tolist()
    assert errors(midi_tokenizer.miditok, ids) > 0.3


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_written_music_is_never_refused(options: dict[str, object]) -> None:
    tokenizer = trained(**options)
    grammar = MidiGrammar(tokenizer.miditok, allow_end=True)
    for piece in (random_piece(20), random_piece(21, pedals=True), midi_file(note(960, 60), note(7000, 62))):
        state = grammar.start
        for position, index in enumerate([*tokenizer.encode_midi(piece), tokenizer.eos_token_id]):
            assert not grammar.banned(state)[index], (position, tokenizer.base_names[index], state)
            state = grammar.advance(state, [index])


def test_performances_are_never_refused(sample_files: list) -> None:
    tokenizer = MidiTokenizer.train(sample_files[:2], vocab_size=600)
    grammar = MidiGrammar(tokenizer.miditok)
    state = grammar.start
    for index in tokenizer.encode_midi(sample_files[0])[:4000]:
        assert not grammar.banned(state)[index]
        state = grammar.advance(state, [index])


def state_after(grammar: MidiGrammar, tokenizer: MidiTokenizer, *names: str):
    return grammar.advance(grammar.start, [tokenizer.miditok.vocab[name] for name in names])


def allowed(grammar: MidiGrammar, tokenizer: MidiTokenizer, *names: str) -> set[tuple[str, ...]]:
    banned = grammar.banned(state_after(grammar, tokenizer, *names))
    return {tokens for tokens, is_banned in zip(tokenizer.base_names, banned, strict=True) if not is_banned}


NOTE = ("Bar_None", "Position_4", "Pitch_60", "Velocity_63", "Duration_1.0.12")


def test_rules_by_hand(midi_tokenizer: MidiTokenizer) -> None:
    grammar = MidiGrammar(midi_tokenizer.miditok)
    assert {names[:1] for names in allowed(grammar, midi_tokenizer)} == {("Bar_None",), ()}
    after_pitch = allowed(grammar, midi_tokenizer, *NOTE[:3])
    assert {names[0].split("_")[0] for names in after_pitch} == {"Velocity"}
    after_note = allowed(grammar, midi_tokenizer, *NOTE)
    assert ("Pitch_60",) not in after_note  # it has just begun
    assert ("Pitch_61",) in after_note
    assert ("Position_4",) not in after_note
    assert ("Position_5",) in after_note
    again = allowed(grammar, midi_tokenizer, *NOTE, "Position_7")
    assert ("Pitch_60",) in again
    assert ("Position_0",) in allowed(grammar, midi_tokenizer, *NOTE, "Bar_None")


def test_joined_tokens_begin_no_note_twice() -> None:
    chords = midi_file(b"".join(note(0, 60 + step) + note(0, 64 + step) for step in (0, 2, 4) for _ in range(40)))
    tokenizer = MidiTokenizer.train([chords], vocab_size=290)
    grammar = MidiGrammar(tokenizer.miditok)
    joined = [names for names in tokenizer.base_names if len(names) > 1 and names[0].startswith("Pitch")]
    assert joined
    for names in joined:
        other = "Pitch_100" if names[0] != "Pitch_100" else "Pitch_99"
        for pitch, is_allowed in ((names[0], False), (other, True)):
            after = allowed(grammar, tokenizer, *NOTE[:2], pitch, *NOTE[3:])
            assert (names in after) == is_allowed


def test_positions_stay_in_their_bar() -> None:
    tokenizer = MidiTokenizer.train([], vocab_size=None, use_time_signatures=True)
    grammar = MidiGrammar(tokenizer.miditok)
    in_three = allowed(grammar, tokenizer, "Bar_None", "TimeSig_3/4")
    assert ("Position_35",) in in_three
    assert ("Position_36",) not in in_three
    assert ("Position_36",) in allowed(grammar, tokenizer, "Bar_None", "TimeSig_4/4")


def test_a_piece_ends_between_notes_alone(midi_tokenizer: MidiTokenizer) -> None:
    end = (midi_tokenizer.eos_token,)
    without = MidiGrammar(midi_tokenizer.miditok)
    grammar = MidiGrammar(midi_tokenizer.miditok, allow_end=True)
    for length in range(len(NOTE) + 1):
        names = NOTE[:length]
        assert (end in allowed(grammar, midi_tokenizer, *names)) == (length in (1, 5))
        assert end not in allowed(without, midi_tokenizer, *names)
        assert allowed(without, midi_tokenizer, *names) == allowed(grammar, midi_tokenizer, *names) - {end}


@pytest.mark.parametrize("options", [{"do_sample": True}, {"num_beams": 3, "do_sample": False}], ids=["drawn", "beams"])
def test_generate_of_transformers(options: dict[str, object], midi_tokenizer: MidiTokenizer) -> None:
    """A batch with padding on the left, in two calls with one processor."""
    model = llama(len(midi_tokenizer))
    processor = MidiGrammarLogitsProcessor(MidiGrammar(midi_tokenizer.miditok))
    short, long = midi_tokenizer.encode_midi(random_piece(1, 3)), midi_tokenizer.encode_midi(random_piece(2, 6))
    long = long[: len(short) + 2]
    ids = torch.tensor([[0, 0, 1, *short], [1, *long, 0][: len(short) + 3]])
    ids[1, -1] = long[-1]
    mask = (torch.arange(ids.shape[1]) >= torch.tensor([[2], [0]])).long()
    for _ in range(2):
        torch.manual_seed(0)
        found = model.generate(ids, attention_mask=mask, max_new_tokens=60, logits_processor=[processor], **options)
        for row in found[:, ids.shape[1] :].tolist():
            assert min(row) > 2
        assert errors(midi_tokenizer.miditok, [*short, *found[0, ids.shape[1] :].tolist()]) == 0
        torch.manual_seed(0)
        free = model.generate(ids, attention_mask=mask, max_new_tokens=60, eos_token_id=None, **options)
        assert errors(midi_tokenizer.miditok, free[0, len(short) + 3 :].tolist()) > 0.1


def test_ids_past_the_vocabulary_are_banned() -> None:
    scores = torch.zeros(2, 6)
    found = ban(scores, [np.array([True, False, False, False]), np.array([False] * 4)])
    assert torch.isneginf(found).tolist() == [[True, False, False, False, True, True], [False] * 4 + [True] * 2]
    assert not torch.isneginf(scores).any()


def test_the_space_of_training_comes_between_notes_and_never_twice() -> None:
    tokenizer = trained(tokenization="TSD")
    [space] = [index for index, names in enumerate(token_names(tokenizer.miditok)) if not names]
    assert space in tokenizer.encode_midi(random_piece(20))
    grammar = MidiGrammar(tokenizer.miditok)
    assert not grammar.banned(grammar.start)[space]
    assert grammar.banned(grammar.advance(grammar.start, [space]))[space]
    assert not grammar.banned(state_after(grammar, tokenizer, *NOTE[2:]))[space]
    assert grammar.banned(state_after(grammar, tokenizer, *NOTE[2:4]))[space]


def test_what_cannot_be_judged_is_refused() -> None:
    config = TokenizerConfig(use_pitch_intervals=True, remove_duplicated_notes=True)
    with pytest.raises(UsageError, match="pitch intervals"):
        MidiGrammar(REMI(config))


def test_a_model_of_mamba_type_takes_the_processor(midi_tokenizer: MidiTokenizer) -> None:
    model = mamba(len(midi_tokenizer))
    processor = MidiGrammarLogitsProcessor(MidiGrammar(midi_tokenizer.miditok))
    torch.manual_seed(0)
    found = model.generate(torch.tensor([[1]]), do_sample=True, max_new_tokens=40, logits_processor=[processor])
    assert errors(midi_tokenizer.miditok, found[0, 1:].tolist()) == 0
