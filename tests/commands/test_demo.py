"""The demo from end to end, on fewer notes, and the text it prints."""

from pathlib import Path

import pytest

from hf_audio_mamba.commands import demo


def test_confusion_table_counts_pairs(tmp_path: Path) -> None:
    predictions = tmp_path / "test_predictions.csv"
    predictions.write_text(
        "file_name,label,prediction,score\na,cat,cat,0.9\nb,cat,dog,0.5\nc,cat,dog,0.6\nd,eel,eel,0.7\n"
    )
    assert demo.confusion_table(predictions).splitlines() == [
        "       A    B    C",
        "cat    1    2    0   A",
        "dog    0    0    0   B",
        "eel    0    0    1   C",
    ]


def test_the_demo_trains_shows_and_classifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    fewer = [f"--cache_dir={tmp_path / 'features'}", "--num_clips=80", "--num_train_epochs=1"]
    small = "--config_overrides=hidden_size=16,num_hidden_layers=1"
    replaced = ("--num_clips", "--num_train_epochs", "--config_overrides")
    kept = [option for option in demo.TRAINING_OPTIONS if not option.startswith(replaced)]
    monkeypatch.setattr(demo, "TRAINING_OPTIONS", (*kept, *fewer, small))
    folder = tmp_path / "demo"
    assert demo.run(["--output_dir", str(folder)]) == 0
    shown = capsys.readouterr().out
    for part in (
        "logistic regression",
        "momamba",
        "Confusion matrix",
        "# demo",
        'pipeline("audio-classification"',
    ):
        assert part in shown
    scores = [float(line.split()[0]) for line in shown.splitlines()[-5:]]
    assert scores == sorted(scores, reverse=True)
    assert 0 < sum(scores) <= 1.001
    for name in ("model.safetensors", "README.md", "confusion_matrix.png", "learning_curves.png", "example.wav"):
        assert (folder / name).is_file()
