"""Fills the data of a model card from the results of a run."""

import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_audio_mamba.hub import CardData
from hf_audio_mamba.hub.card_data import DataDescription, MetricValue, SplitSize

_TASKS = {
    "single_label_classification": "audio classification",
    "multi_label_classification": "audio tagging",
    "regression": "audio regression",
}

USUAL_LIMITATION = "Judged on the data above alone; how it does on other recordings is unknown."


def card_data(folder: Path, results: Mapping[str, Any], figures: Sequence[tuple[str, str]]) -> CardData:
    """Describe a run for its model card.

    Args:
        folder: Folder of the run; its name becomes the model's unless the run names a repository.
        results: What `all_results.json` holds.
        figures: (caption, file name) of pictures in the folder.
    """
    arguments = dict(results["arguments"])
    repo_id = arguments.get("hub_model_id")
    task = _TASKS[results["problem_type"]]
    evaluated = "test" if "test" in results["metrics"] else "validation"
    # A d-prime may be infinite, which no card can show.
    intervals = {name: ends for name, ends in results["intervals"].items() if all(map(math.isfinite, ends))}
    return CardData(
        model_name=str(repo_id).split("/")[-1] if repo_id else folder.resolve().name,
        summary=f"A {results['model_type']} model for {task}, trained on {results['dataset']}.",
        task=task,
        problem_type=results["problem_type"],
        data=DataDescription(
            name=results["dataset"],
            source=results["dataset_info"].get("source", results["dataset"]),
            license=results["data_license"],
            splits={name: SplitSize(clips, results["hours"].get(name)) for name, clips in results["clips"].items()},
            hub_id=results["hub_dataset_id"],
        ),
        labels=results["label_names"],
        metrics={
            split: [
                MetricValue(name, value, *(intervals.get(name, (None, None)) if split == "test" else (None, None)))
                for name, value in metrics.items()
                if math.isfinite(value)
            ]
            for split, metrics in sorted(results["metrics"].items())
        },
        floors={
            name: [MetricValue(metric, value) for metric, value in splits[evaluated].items() if math.isfinite(value)]
            for name, splits in results["floor"].items()
        },
        floor_split=evaluated,
        training_arguments=arguments,
        command=results["command"] or "",
        seeds=[results["seed"]],
        num_parameters=results["num_parameters"],
        training_time_s=results["train_seconds"],
        hardware=_hardware(),
        package_versions=results["versions"],
        skipped_files=[(name, reason) for entries in results["skipped"].values() for name, reason in entries],
        limitations=_limitations(results, evaluated),
        figures=figures,
        base_model=arguments.get("model_name_or_path"),
        repo_id=repo_id,
    )


def _limitations(results: Mapping[str, Any], split: str) -> list[str]:
    """Labels and clips that the figures leave out; nothing where there are none, which keeps the usual sentence."""
    undefined = results.get("undefined_labels", {}).get(split, {})
    reasons = {
        "without_positives": f"occur in no {split} clip; mean average precision, mean ROC-AUC and d' leave them out.",
        "without_negatives": f"occur in every {split} clip; mean ROC-AUC and d' leave them out.",
    }
    said = [
        f"Of {len(results['label_names'])} labels, {undefined[which]} {reason}"
        for which, reason in reasons.items()
        if undefined.get(which)
    ]
    if unreadable := {name: count for name, count in results.get("unreadable", {}).items() if count}:
        counts = ", ".join(f"{name} {count}" for name, count in unreadable.items())
        said.append(f"Clips of the stream that could not be read were skipped ({counts}).")
    return [*said, USUAL_LIMITATION] if said else []


def _hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"
