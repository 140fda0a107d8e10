from pathlib import Path
from typing import Any

from hf_audio_mamba.hub import render_model_card
from hf_audio_mamba.training.card import card_data


def tagging_results(undefined: dict[str, int], d_prime: float) -> dict[str, Any]:
    """What a tagger's run would store."""
    scores = {"mean_average_precision": 0.4, "mean_roc_auc": 0.9, "d_prime": d_prime}
    return {
        "dataset": "tags",
        "dataset_info": {"source": "folder tags"},
        "problem_type": "multi_label_classification",
        "label_names": ["a", "b", "c"],
        "data_license": "CC0",
        "hub_dataset_id": None,
        "hours": {},
        "clips": {"train": 8, "test": 4},
        "skipped": {},
        "model_type": "momamba",
        "num_parameters": 10,
        "train_seconds": 1.0,
        "seed": 0,
        "arguments": {},
        "versions": {},
        "command": "train",
        "metrics": {"test": scores},
        "intervals": {"mean_roc_auc": (0.8, 1.0), "d_prime": (1.2, float("inf"))},
        "floor": {},
        "undefined_labels": {"test": undefined},
    }


def card_of(results: dict[str, Any], folder: Path) -> str:
    return render_model_card(card_data(folder, results, []))


def test_labels_that_the_means_leave_out_are_told(tmp_path: Path) -> None:
    card = card_of(tagging_results({"without_positives": 2, "without_negatives": 0}, 1.81), tmp_path)
    assert "Of 3 labels, 2 occur in no test clip; mean average precision, mean ROC-AUC and d' leave them out." in card
    assert "how it does on other recordings is unknown" in card
    assert "every test clip" not in card
    whole = card_of(tagging_results({"without_positives": 0, "without_negatives": 0}, 1.81), tmp_path)
    assert "leave them out" not in whole


def test_an_infinite_d_prime_is_left_out_and_an_infinite_interval_too(tmp_path: Path) -> None:
    card = card_of(tagging_results({}, 1.81), tmp_path)
    assert "| test | d' | 1.810 |" in card
    assert "| test | mean ROC-AUC (mAUC) | 0.900 (0.800 to 1.000) |" in card
    assert "d'" not in card_of(tagging_results({}, float("inf")), tmp_path)
