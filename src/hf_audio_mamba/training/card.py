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
    intervals = results["intervals"]
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
        figures=figures,
        base_model=arguments.get("model_name_or_path"),
        repo_id=repo_id,
    )


def _hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"
