"""Which clips a run trains on: copies at other pitches, and those of the validation split."""

from pathlib import Path

import pytest

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.training import run, workflow
from tests.training.test_workflow import arguments
from tests.training.tone_folder import write_tone, write_tones


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


def test_transposed_copies_are_trained_on_but_not_part_of_the_floor(
    tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["file_name,label,split"]
    for index in range(12):
        pitch = 60 + index % 3
        write_tone(tmp_path / "notes" / f"{index}.wav", 261.63 * 2 ** ((pitch - 60) / 12), seed=index)
        lines.append(f"{index}.wav,{pitch},{'test' if index > 8 else 'train'}")
    (tmp_path / "notes" / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    trained, fitted = [], []
    dataset_of, floor_of = workflow.training_dataset, workflow.floor_scores
    monkeypatch.setattr(
        workflow, "training_dataset", lambda split, *a, **k: (trained.append(split), dataset_of(split, *a, **k))[1]
    )
    monkeypatch.setattr(
        workflow, "floor_scores", lambda kind, train, *a, **k: (fitted.append(train), floor_of(kind, train, *a, **k))[1]
    )
    options = {"validation_fraction": 0.0, "transpose_copies": [1, -2], "transposed_labels": "move"}
    results = run(*arguments(tmp_path / "notes", tmp_path / "out", cache, **options))
    assert trained[0].names[9:] == [
        *(f"{index}.wav (+1 semitones)" for index in range(9) if index % 3 != 2),
        *(f"{index}.wav (-2 semitones)" for index in range(9) if index % 3 == 2),
    ]
    assert len(fitted[0][1]) == 9
    assert results["arguments"]["transpose_copies"] == [1, -2]
    assert results["clips"] == {"train": 9, "test": 3}


def test_training_on_the_validation_split_too(tmp_path: Path, cache: str) -> None:
    tones = write_tones(tmp_path / "tones")
    results = run(*arguments(tones, tmp_path / "out", cache, train_on_validation=True, floor=False))
    assert results["clips"] == {"train": 24, "test": 6}
    assert set(results["metrics"]) == {"test"}
    with pytest.raises(UsageError, match=r"--train_on_validation: .* has no validation split"):
        run(*arguments(tones, tmp_path / "no", cache, train_on_validation=True, fold="1", validation_fold="none"))
