import math
from pathlib import Path
from typing import Any

import pytest

from hf_audio_mamba.errors import DataError, UsageError
from hf_audio_mamba.training import DataArguments
from hf_audio_mamba.training.cross_validation import cross_validate, list_folds


def data(folder: Path, header: str = "file_name,label,fold", **changes: Any) -> DataArguments:
    rows = [f"{index}.wav,x,{fold}" for index, fold in enumerate((10, 2, 1, 2))]
    (folder / "metadata.csv").write_text("\ufeff" + "\r\n".join([header, *rows]), encoding="utf-8")
    return DataArguments(data_dir=str(folder), **changes)


def test_folds_are_listed_in_order(tmp_path: Path) -> None:
    assert list_folds(data(tmp_path)) == ["1", "2", "10"]
    assert list_folds(data(tmp_path, metadata="metadata.csv")) == ["1", "2", "10"]


def test_data_without_folds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs a column 'fold', which .*metadata\.csv does not have"):
        list_folds(data(tmp_path, "file_name,label,part"))
    with pytest.raises(DataError, match=r"absent\.csv does not exist"):
        list_folds(data(tmp_path, metadata="absent.csv"))
    with pytest.raises(UsageError, match="needs --data_dir"):
        list_folds(DataArguments(dataset_name="synthetic-notes"))


def test_folds_are_run_each_in_its_folder_and_combined(tmp_path: Path) -> None:
    accuracies = {"1": 0.5, "2": 0.7, "10": 0.9}

    def run_fold(args: DataArguments, folder: Path) -> dict[str, Any]:
        assert folder.is_dir()
        assert folder.name == f"fold-{args.fold}"
        scores = {"test": {"accuracy": accuracies[args.fold or ""], "f1_macro": math.nan}}
        return {
            "dataset": "barks",
            "problem_type": "single_label_classification",
            "label_names": ["cat", "dog"],
            "model_type": "momamba",
            "num_parameters": 12345,
            "seed": 7,
            "versions": {"torch": "2.13.0"},
            "command": "train it",
            "data_license": "CC0-1.0",
            "clips": {"test": 40},
            "arguments": {"fold": args.fold, "learning_rate": 0.01},
            "train_seconds": 60.0,
            "metrics": scores,
            "floor": {"majority class": {"test": {"accuracy": 0.25}}},
        }

    (tmp_path / "run").mkdir()
    results = cross_validate(data(tmp_path), tmp_path / "run", run_fold, is_main=True)
    assert results["metrics"]["test"]["accuracy"] == pytest.approx(0.7)
    assert results["deviations"]["test"]["accuracy"] == pytest.approx(0.2)
    assert results["floor"]["majority class"]["test"]["accuracy"] == pytest.approx(0.25)
    assert results["train_seconds"] == 180.0
    assert (tmp_path / "run" / "all_results.json").is_file()
    assert (tmp_path / "run" / "README.md").read_text(encoding="utf-8") == CARD


CARD = """# run

Cross-validation of a momamba model on barks: 3 models, each tested on one fold and trained on others. Their cards \
are in the sub-folders.

- **Parameters:** 12,345
- **Classes or targets:** cat, dog
- **Data licence:** CC0-1.0
- **Seed:** 7
- **Training time:** 3 min for all folds

## Test scores

| fold | test clips | accuracy | f1 macro | accuracy, majority class |
|---|---|---|---|---|
| 1 | 40 | 0.500 | not defined | 0.250 |
| 2 | 40 | 0.700 | not defined | 0.250 |
| 10 | 40 | 0.900 | not defined | 0.250 |
| **mean** |  | **0.700** | **not defined** | **0.250** |
| deviation |  | 0.200 | not defined |  |

## Run it again

```bash
train it
```

| argument | value |
|---|---|
| `learning_rate` | `0.01` |

Versions: torch 2.13.0.
"""
