import json
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.training import parse_arguments
from hf_audio_mamba.training.settings import MAX_SETTINGS_BYTES

BASE = ["--data_dir", "clips", "--output_dir", "out", "--use_cpu"]


def write(folder: Path, text: str, name: str = "recipe.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_options_reach_their_dataclass() -> None:
    model, data, training = parse_arguments(
        [*BASE, "--config_name", "c", "--label-column", "pitch", "--learning_rate", "3e-4", "--no_floor", "--resume"]
    )
    assert (model.config_name, data.label_column, training.learning_rate) == ("c", "pitch", 3e-4)
    assert (training.floor, training.resume, training.overwrite_output_dir) == (False, True, False)


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
def test_settings_file_gives_what_options_would(tmp_path: Path, suffix: str) -> None:
    settings = {
        "data_dir": "clips",
        "output_dir": "out",
        "use_cpu": True,
        "learning_rate": 3e-4,
        "num_train_epochs": 7,
        "floor": False,
        "label_range": [-1.0, 1.0],
        "metadata": None,
        "config_overrides": {"hidden_size": 64, "pooling": "mean"},
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "max_steps": -1,
    }
    # JSON is YAML too, so the same text serves all three.
    model, data, training = parse_arguments([write(tmp_path, json.dumps(settings), f"recipe{suffix}")])
    assert json.loads(model.config_overrides or "") == {"hidden_size": 64, "pooling": "mean"}
    assert (data.data_dir, data.label_range, data.metadata) == ("clips", [-1.0, 1.0], None)
    assert (training.learning_rate, training.num_train_epochs, training.floor) == (3e-4, 7.0, False)
    assert training.lr_scheduler_kwargs == {"num_cycles": 2}


def test_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "data_dir: clips\noutput_dir: out\nuse_cpu: true\nlearning_rate: 1e-2\nseed: 5\n")
    _, _, training = parse_arguments([path, "--learning_rate", "2e-3"])
    assert (training.learning_rate, training.seed) == (2e-3, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", r"no option 'learning_rat'; did you mean 'learning_rate'\?"),
        ("zzz: 1", r"no option 'zzz'\."),
        ("seed: 1\nseed: 2", r"line 2: 'seed' is given twice"),
        ("seed: !!python/object/apply:os.system ['touch owned']", "could not determine a constructor"),
        ("seed: !!python/name:os.system", "could not determine a constructor"),
        ("a: &x [1, 1]\nb: [*x, *x]", "line 2: aliases"),
        ("? [1, 2]\n: 3", "an option name must be a plain word"),
        ("- seed", "a mapping of option names"),
        ("", "a mapping of option names"),
        ("seed: [", "not usable as YAML"),
        ("seed: \tx: y: z", "not usable as YAML"),
        ("seed: many", "seed"),
        ("use_cpu: perhaps", "use_cpu"),
        ("do_train: true", "no effect here"),
        ("deepspeed: zero.json", "not supported"),
    ],
)
def test_unusable_settings_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError, match=message):
        parse_arguments([path, *BASE])
    assert not Path("owned").exists()


@pytest.mark.parametrize("text", ['{"seed": 1, "seed": 2}', '{"seed": 1', "[1]", '{"zzz": 1}'])
def test_unusable_json_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text, "recipe.json")
    with pytest.raises(UsageError, match=r"recipe\.json"):
        parse_arguments([path, *BASE])


def test_bombs_are_refused_at_once(tmp_path: Path) -> None:
    laughs = "a0: &a0 [x, x]\n" + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))
    start = time.process_time()
    for name, text in {
        "laughs.yaml": laughs,
        "deep.yaml": "[" * 100_000,
        "deep.json": "[" * 100_000,
        "large.yaml": "#" * (MAX_SETTINGS_BYTES + 1),
    }.items():
        with pytest.raises(UsageError, match=name):
            parse_arguments([write(tmp_path, text, name), *BASE])
    assert time.process_time() - start < 5


@given(st.binary(max_size=200))
def test_no_content_of_a_settings_file_breaks_the_parser(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("settings") / "recipe.yaml"
    path.write_bytes(data)
    with suppress(UsageError):  # and nothing else
        parse_arguments([str(path), *BASE])


def test_missing_and_unnamed_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.yaml: the settings file cannot be read"):
        parse_arguments([str(tmp_path / "absent.yaml"), *BASE])
    with pytest.raises(UsageError, match=r"ends in \.yaml, \.yml or \.json"):
        parse_arguments(["recipe.txt", *BASE])
    with pytest.raises(UsageError, match="a settings file must come first"):
        parse_arguments([*BASE, "--seed", "1", "recipe.yaml"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning_ratee", "1"], r"no option --learning_ratee; did you mean 'learning_rate'\?"),
        (["--learning", "1"], "no option --learning"),
        (["--learning_rate"], "expected one argument"),
        (["--learning_rate", "fast"], "invalid float value: 'fast'"),
        (["--problem_type", "clustering"], "clustering"),
        (["--auto-find-batch-size"], "no effect here"),
    ],
)
def test_wrong_options_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_arguments([*BASE, *words])


def test_help_shows_the_options_that_matter(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "--config_overrides" in text
    assert "--augmentation" in text
    assert "--torch_compile_backend" not in text
    assert "--learning-rate" not in text
    assert "default: None" not in text
    assert 40 < text.count("\n  --") < 85
