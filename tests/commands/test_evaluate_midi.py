"""`evaluate-midi` on small models: tables, JSON and figure, and what it refuses."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from hf_audio_mamba.commands.evaluate_midi import run
from hf_audio_mamba.commands.main import run_command
from hf_audio_mamba.metrics import copy_rates
from hf_audio_mamba.midi import MidiTokenizer, find_music, read_pieces
from tests.midi.midi_bytes import random_piece, write_pieces

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of two kinds on one grid, a third on another, and music."""
    folder = tmp_path_factory.mktemp("evaluation")
    torch.manual_seed(0)
    pieces = [random_piece(seed) for seed in range(4)]
    tokenizers = {
        "mamba": MidiTokenizer.train(pieces, vocab_size=300),
        "llama": MidiTokenizer.train(pieces, vocab_size=None),
        "finer": MidiTokenizer.train(pieces, vocab_size=None, beat_resolution=24),
    }
    for name, tokenizer in tokenizers.items():
        size = len(tokenizer)
        if name == "llama":
            config = LlamaConfig(vocab_size=size, intermediate_size=32, num_attention_heads=2, **SIZES)
            model = LlamaForCausalLM(config)
        else:
            model = MambaForCausalLM(MambaConfig(vocab_size=size, state_size=4, **SIZES))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    write_pieces(folder / "held_out", [20, 21])
    write_pieces(folder / "training", range(4))
    ids = tokenizers["mamba"].encode_midi(random_piece(0), add_special_tokens=True)
    (folder / "generated").mkdir()
    (folder / "generated" / "a.json").write_text(json.dumps([ids, [1, *range(3, 60), 2], []]))
    return folder


def test_one_model_with_generated_and_training_music(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", str(folder / "mamba"), "--midi", str(folder / "held_out"), "--device", "cpu"]
    music = ["--generated", str(folder / "generated"), "--training", str(folder / "training"), "--copy_lengths", "3"]
    output = ["--json", str(tmp_path / "r.json"), "--plot", str(tmp_path / "p.png")]
    assert run([*options, *music, *output]) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "r.json").read_text())
    (entry,) = content["models"].values()
    assert entry["context"]["description"] == "all tokens before, by carried state"
    assert (entry["model_type"], entry["vocab_size"], entry["pieces"], entry["notes"]) == ("mamba", 300, 2, 240)
    assert entry["bits_per_note"] == pytest.approx(entry["nats_per_token"] * entry["tokens"] / math.log(2) / 240)
    assert f"{entry['bits_per_note']:.3f}" in printed
    assert [row["name"] for row in entry["by_piece"]] == [str(path) for path in find_music([folder / "held_out"])]
    held_out, generated, training = (content["music"][name] for name in ("held_out", "generated", "training"))
    assert (generated["pieces"], generated["empty_pieces"]) == (3, 2)
    assert generated["grammar_error_rate"] > held_out["grammar_error_rate"] == training["grammar_error_rate"] == 0
    assert generated["pitch_longest_copy"] >= 120
    tokenizer = MidiTokenizer.from_pretrained(folder / "mamba")
    notes = {
        name: [piece.notes for piece in read_pieces(tokenizer, find_music([folder / name]))]
        for name in ("held_out", "training")
    }
    expected = copy_rates(notes["held_out"], notes["training"], lengths=[3], kind="interval")[3]
    assert held_out["interval_copy_rate_3"] == pytest.approx(expected)
    assert "pitch_class_overlap" not in held_out
    assert "pitch_longest_copy" not in training
    assert 0 < training["duration_overlap"] <= 1
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_models_of_one_grid_share_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [str(folder / name) for name in ("mamba", "llama")]
    assert run(["--model", *models, "--midi", str(folder / "held_out"), "--window", "32", "--device", "cpu"]) == 0
    table = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert len(table) == 4
    assert all("at least 17 tokens (all, where fewer), by windows of 32" in row for row in table[2:])


def test_a_data_set_gives_its_splits(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, seeds in (("train", range(4)), ("validation", [30]), ("test", [20, 21])):
        write_pieces(tmp_path / split, seeds)
    options = ["--model", str(folder / "mamba"), "--device", "cpu", "--json", "--data_dir", str(tmp_path)]
    assert run([*options, "--copies"]) == 0
    test = json.loads(capsys.readouterr().out)
    midi = ["--midi", str(folder / "held_out"), "--training", str(folder / "training")]
    assert run([*options[:-2], *midi]) == 0
    same = json.loads(capsys.readouterr().out)
    assert test["music"] == same["music"]
    (scores,), (expected,) = test["models"].values(), same["models"].values()
    assert scores["nats_per_token"] == expected["nats_per_token"]
    assert run([*options, "--split", "validation"]) == 0
    validation = json.loads(capsys.readouterr().out)
    assert (validation["music"]["held_out"]["pieces"], list(validation["music"])) == (1, ["held_out"])


@pytest.mark.parametrize("options", [["--midi", "a", "--copies"], ["--data_dir", "a", "--training", "b"], []])
def test_options_that_do_not_go_together_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(["--model", "m", *options])
    assert stopped.value.code == 2
    assert "--midi" in capsys.readouterr().err


def test_json_alone_is_json_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(path) for path in find_music([folder / "held_out"])[:1]]
    assert run(["--model", str(folder / "llama"), "--midi", *files, "--device", "cpu", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert set(content["music"]) == {"held_out"}
    assert content["grid"]["beat_resolution"] == {"0-4": 12, "4-12": 6}


def test_what_cannot_be_evaluated_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn = tmp_path / "torn"
    torn.mkdir()
    for path in (folder / "mamba").iterdir():
        (torn / path.name).write_bytes(path.read_bytes())
    (torn / "model.safetensors").write_bytes((folder / "mamba" / "model.safetensors").read_bytes()[:-100])
    unfit = tmp_path / "unfit"
    MidiTokenizer.from_pretrained(folder / "finer").save_pretrained(unfit)
    MambaForCausalLM(MambaConfig(vocab_size=40, state_size=4, **SIZES)).save_pretrained(unfit)
    held_out = ["--midi", str(folder / "held_out")]
    mamba = ["--model", str(folder / "mamba"), *held_out]
    for options, status, message in (
        (["--model", str(folder / "nowhere"), *held_out], 2, "is no folder"),
        (["--model", str(folder / "held_out"), *held_out], 1, "miditok.json"),
        (["--model", str(torn), *held_out], 1, "model.safetensors"),
        (["--model", str(unfit), *held_out], 1, "they do not fit"),
        (["--model", str(folder / "mamba"), "--midi", str(folder / "mamba")], 1, "holds no files that end in"),
        (["--model", str(folder / "mamba"), str(folder / "finer"), *held_out], 2, "differ in beat_resolution"),
        (
            [*held_out, "--generated", str(folder / "generated"), "--model"]
            + [str(folder / name) for name in ("mamba", "llama")],
            2,
            "generated ids belong to one model",
        ),
        ([*mamba, "--stride", "4"], 2, "stride is for windows"),
        ([*mamba, "--copy_lengths", "1", "--training", str(folder / "training")], 2, "lengths are"),
        ([*mamba, "--device", "abacus"], 2, "--device abacus cannot be used"),
        ([*mamba, "--json", str(tmp_path / "no" / "r.json")], 1, "cannot write the result"),
    ):
        assert run_command(run, options) == status, options
        assert message in capsys.readouterr().err
