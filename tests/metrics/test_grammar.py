"""Grammar errors, against sequences whose errors are counted by hand and a state machine of REMI."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from miditok import REMI, TSD, TokenizerConfig, TokSequence
from symusic import Note, Score, Track

from hf_audio_mamba.errors import DataError
from hf_audio_mamba.metrics import GrammarErrorRate, grammar_error_rate, grammar_errors

AFTER = {
    "Bar": {"Bar", "Position"},
    "Position": {"Pitch"},
    "Pitch": {"Velocity"},
    "Velocity": {"Duration"},
    "Duration": {"Pitch", "Position", "Bar"},
}
"""What may follow what in REMI with notes alone."""


def plain() -> TokenizerConfig:
    return TokenizerConfig(num_velocities=8, use_time_signatures=False, use_pitchdrum_tokens=False)


def random_score(seed: int, notes: int = 80) -> Score:
    generator = np.random.default_rng(seed)
    score, track = Score(480), Track(program=0)
    for time in np.sort(generator.integers(0, 480 * 16, notes)):
        track.notes.append(Note(int(time), 240, int(generator.integers(40, 90)), int(generator.integers(20, 120))))
    score.tracks.append(track)
    return score


@pytest.fixture(scope="module")
def remi() -> REMI:
    return REMI(plain())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> REMI:
    paths = []
    folder = tmp_path_factory.mktemp("music")
    for seed in range(3):
        paths.append(Path(folder, f"{seed}.mid"))
        random_score(seed).dump_midi(paths[-1])
    tokenizer = REMI(plain())
    tokenizer.train(vocab_size=len(tokenizer) + 40, files_paths=paths)
    return tokenizer


def ids_of(tokenizer, *tokens: str) -> list[int]:
    return [tokenizer[token] for token in tokens]


NOTE = ("Velocity_127", "Duration_1.0.8")


@pytest.mark.parametrize(
    ("tokens", "errors"),
    [
        (("Bar_None", "Position_0", "Pitch_60", *NOTE), 0),
        (("BOS_None", "Bar_None", "Position_0", "Pitch_60", *NOTE, "EOS_None"), 0),
        (("Bar_None", "Position_0", "Pitch_60", "Pitch_62", *NOTE), 1),
        (("Bar_None", "Pitch_60", "Duration_1.0.8", "Velocity_127"), 3),
        (("Bar_None", "Position_8", "Pitch_60", *NOTE, "Position_8", "Pitch_61", *NOTE), 1),
        (("Bar_None", "Position_8", "Pitch_60", *NOTE, "Position_9", "Pitch_61", *NOTE), 0),
        (("Bar_None", "Position_8", "Pitch_60", *NOTE, "Bar_None", "Position_0", "Pitch_61", *NOTE), 0),
        (("Bar_None", "Position_0", "Pitch_60", *NOTE, "EOS_None", "Bar_None"), 1),
        (("Bar_None",), 0),
    ],
)
def test_errors_counted_by_hand(remi: REMI, tokens: tuple[str, ...], errors: int) -> None:
    assert grammar_errors(remi, ids_of(remi, *tokens)) == (errors, len(tokens))


def test_a_pitch_struck_twice_at_once_is_an_error_where_duplicates_are_removed(remi: REMI) -> None:
    config = plain()
    config.remove_duplicated_notes = True
    chord = ("Bar_None", "Position_0", "Pitch_60", *NOTE, "Pitch_60", *NOTE, "Pitch_64", *NOTE)
    strict = REMI(config)
    assert grammar_errors(strict, ids_of(strict, *chord)) == (1, 11)
    assert grammar_errors(remi, ids_of(remi, *chord)) == (0, 11)


def errors_by_state_machine(tokens: list[str]) -> int:
    errors, position = 0, -1
    for before, token in pairwise(tokens):
        kind, value = token.split("_")
        if kind not in AFTER[before.split("_")[0]]:
            errors += 1
            continue
        if kind == "Bar":
            position = -1
        elif kind == "Position":
            errors += int(value) <= position
            position = int(value)
    return errors


def test_random_tokens_equal_a_state_machine(remi: REMI) -> None:
    generator = np.random.default_rng(0)
    names = {i: name for name, i in remi.vocab.items() if name.split("_")[0] in AFTER}
    for _ in range(20):
        ids = [remi["Bar_None"], *(int(i) for i in generator.choice(list(names), 60))]
        assert grammar_errors(remi, ids) == (errors_by_state_machine([names[i] for i in ids]), 61)


def test_learnt_tokens_are_judged_by_what_they_stand_for(trained: REMI) -> None:
    base = REMI(plain())
    names = {i: name for name, i in base.vocab.items()}
    generator = np.random.default_rng(1)
    for seed in range(10):
        ids = base(random_score(seed))[0].ids
        for place in generator.integers(1, len(ids), 5):
            ids[place] = int(generator.integers(4, len(base)))
        learnt = TokSequence(ids=list(ids))
        trained.encode_token_ids(learnt)
        assert len(learnt.ids) < len(ids)
        errors = errors_by_state_machine([names[i] for i in ids])
        assert errors > 0
        assert grammar_errors(trained, learnt.ids) == (errors, len(ids))
    encoded = trained(random_score(7))[0]
    assert len(encoded.ids) < len(base(random_score(7))[0].ids)
    assert grammar_errors(trained, encoded.ids) == (0, len(base(random_score(7))[0].ids))


def test_the_rate_is_over_all_tokens_and_the_metric_equals_it(remi: REMI) -> None:
    sequences = [
        ids_of(remi, "Bar_None", "Pitch_60", "Duration_1.0.8", "Velocity_127"),
        [],
        ids_of(remi, "Bar_None", "Position_0", "Pitch_60", *NOTE),
    ]
    assert grammar_error_rate(remi, sequences) == pytest.approx(3 / 9)
    assert GrammarErrorRate(remi).compute(predictions=sequences) == {"grammar_error_rate": pytest.approx(3 / 9)}
    assert math.isnan(grammar_error_rate(remi, [[]]))


def test_other_tokenizers_and_their_own_music_have_no_errors() -> None:
    for tokenizer in (TSD(TokenizerConfig()), REMI(TokenizerConfig(use_rests=True, use_sustain_pedals=True))):
        for seed in range(3):
            ids = tokenizer(random_score(seed))[0].ids
            assert grammar_errors(tokenizer, ids) == (0, len(ids))


@pytest.mark.parametrize("foreign", [-1, 100_000])
def test_ids_of_another_tokenizer_are_named(remi: REMI, foreign: int) -> None:
    with pytest.raises(DataError, match=f"ids hold {foreign}, the tokenizer has 0 to"):
        grammar_errors(remi, [4, foreign])
