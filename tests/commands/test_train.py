"""The train verb as a user meets it: a process with options, output and an exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_audio_mamba.commands import train
from tests.training.tone_folder import FEATURES, MODEL, write_tones

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_audio_classification.py"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_AUDIO_MAMBA_SCAN", "torch")


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"))


def options(tones: Path, tmp_path: Path) -> list[str]:
    return [
        *("--data_dir", str(tones), "--output_dir", str(tmp_path / "run"), "--cache_dir", str(tmp_path / "cache")),
        *("--config_overrides", MODEL, "--feature_overrides", FEATURES, "--use_cpu", "--num_train_epochs", "1"),
        *("--bootstrap_resamples", "20", "--num_feature_workers", "1"),
    ]


def main(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["train_audio_classification.py", *argv])
    return train.main()


def test_script_trains_and_prints_a_table(tones: Path, tmp_path: Path) -> None:
    # LC_ALL, TZ and no terminal: what a scheduler's environment is like.
    environment = {**os.environ, "LC_ALL": "C", "TZ": "Asia/Tokyo", "NO_COLOR": "1", "COLUMNS": "20"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options(tones, tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    header, *rows, last = done.stdout.splitlines()
    assert header.split() == ["validation", "accuracy", "test", "accuracy", "95", "%", "interval"]
    assert [row.split("  ")[0] for row in rows] == ["majority class", "logistic regression", "momamba"]
    assert last.endswith(str(tmp_path / "run"))
    assert "epoch 1 of 1: loss " in done.stderr
    assert not any(mark in done.stderr for mark in ("it/s", "\r", "Warning", "Traceback"))
    command = json.loads((tmp_path / "run" / "all_results.json").read_text())["command"]
    assert command.startswith("hf-audio-mamba train \\\n  --data_dir ")


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["--learning_ratee", "1"], 2, "did you mean 'learning_rate'?"),
        (["--seed", "x"], 2, "invalid int value: 'x'"),
        (["--data_dir", "no-such-folder"], 1, "no-such-folder"),
        (["--fold", "all", "--push_to_hub"], 2, "--fold all"),
        (["--metadata", "absent.csv"], 1, "absent.csv"),
    ],
)
def test_wrong_usage_is_2_and_failed_work_is_1(
    tones: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    text: str,
) -> None:
    assert main([*options(tones, tmp_path), *words], monkeypatch) == status
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error


def test_recipe_with_an_option_on_top(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(
        json.dumps(
            {
                "data_dir": str(tones),
                "output_dir": str(tmp_path / "run"),
                "cache_dir": str(tmp_path / "cache"),
                "config_overrides": dict(pair.split("=") for pair in MODEL.split(",")),
                "feature_overrides": FEATURES,
                "use_cpu": True,
                "num_train_epochs": 9,
                "floor": False,
                "bootstrap_resamples": 0,
            }
        )
    )
    # Sizes in the recipe are text here, which the model's configuration must refuse by name.
    assert main([str(recipe)], monkeypatch) == 2
    assert main([str(recipe), "--config_overrides", MODEL, "--num_train_epochs", "1"], monkeypatch) == 0
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert (results["epochs"], results["floor"], results["intervals"]) == (1.0, {}, {})


def test_help_of_the_verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"], monkeypatch)
    assert ended.value.code == 0
    assert "[SETTINGS.yaml] [--option value ...]" in capsys.readouterr().out
