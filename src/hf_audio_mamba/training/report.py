"""What a run leaves behind: results, predictions, figures, model card, and the upload of all of it."""

import csv
import io
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_audio_mamba import plots
from hf_audio_mamba.data import AudioDataset
from hf_audio_mamba.hub import push_folder, render_model_card
from hf_audio_mamba.training import output_dir as outputs
from hf_audio_mamba.training.arguments import AudioTrainingArguments, DataArguments, ModelArguments
from hf_audio_mamba.training.card import card_data
from hf_audio_mamba.training.checkpoints import write_atomically, write_json
from hf_audio_mamba.training.metrics import METRICS, TABULATED, bootstrap_intervals, format_table
from hf_audio_mamba.training.preparation import SYNTHETIC_NOTES, SplitFeatures
from hf_audio_mamba.training.trainer import AudioTrainer

logger = logging.getLogger(__name__)

_PACKAGES = ("hf_audio_mamba", "torch", "transformers", "accelerate", "datasets", "numpy", "scikit-learn")

_ALWAYS_SHOWN = {
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "train_sampling_strategy",
    "seed",
}
# Where things are, secrets, and what Transformers derives by itself.
_NOT_SHAPING = {
    "output_dir",
    "cache_dir",
    "hub_token",
    "overwrite_output_dir",
    "resume",
    "resume_from_checkpoint",
    "disable_tqdm",
    "accelerator_config",
    "dataloader_pin_memory",
    "do_eval",
    "greater_is_better",
    "report_to",
}


@dataclass(frozen=True)
class ScoredSplit:
    """Outputs of a trained model for one split.

    Attributes:
        references: Class indices `(clips,)`, indicators `(clips, labels)` or targets `(clips, outputs)`.
        outputs: Logits `(clips, labels)` or values `(clips, outputs)`.
        metrics: As `hf_audio_mamba.training.metrics.score` gives them.
    """

    references: NDArray[Any]
    outputs: NDArray[Any]
    metrics: dict[str, float]


def describe_run(
    dataset: AudioDataset,
    splits: Mapping[str, SplitFeatures],
    trainer: AudioTrainer,
    arguments: tuple[ModelArguments, DataArguments, AudioTrainingArguments],
    *,
    train_seconds: float,
    command: str | None,
) -> dict[str, Any]:
    """Everything about a run except its scores, as it goes into `all_results.json`."""
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    dataset_name = arguments[1].dataset_name
    hub_id = dataset_name if dataset_name != SYNTHETIC_NOTES else None
    return {
        "dataset": dataset.name,
        "dataset_info": dataset.info,
        "problem_type": dataset.problem_type,
        "label_names": dataset.label_names,
        "data_license": arguments[1].data_license,
        "hub_dataset_id": hub_id,
        "hours": _hours(splits, trainer.processing_class),
        "clips": {name: len(split.labels) for name, split in splits.items()},
        "skipped": {name: [list(entry) for entry in split.table.skipped] for name, split in splits.items()},
        "model_type": trainer.model.config.model_type,
        "num_parameters": parameters,
        "train_seconds": round(train_seconds, 1),
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "best_step": trainer.state.best_global_step or trainer.state.global_step,
        **({"averaged_steps": trainer.averaged_steps} if trainer.averaged_steps else {}),
        "seed": trainer.args.seed,
        "arguments": shaping_arguments(arguments),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "command": command,
    }


def _hours(splits: Mapping[str, SplitFeatures], feature_extractor: Any) -> dict[str, float]:
    """Duration of each split in hours, where the feature extractor tells how long a frame is."""
    rate = getattr(feature_extractor, "frames_per_second", None)
    if rate is None:
        return {}
    return {name: round(sum(split.table.lengths) / rate / 3600, 3) for name, split in splits.items()}


def shaping_arguments(arguments: Sequence[Any]) -> dict[str, Any]:
    """Arguments that shaped a run: the important ones always, the others where they differ from their defaults."""
    shaping = {}
    for group in arguments:
        for item in fields(group):
            if not item.init or item.name in _NOT_SHAPING:
                continue
            default = item.default_factory() if item.default_factory is not MISSING else item.default
            value = getattr(group, item.name)
            unchanged = value == default or (not value and not default)
            if item.name in _ALWAYS_SHOWN or not unchanged:
                value = getattr(value, "value", value)
                shaping[item.name] = value if isinstance(value, bool | int | float | list | None) else str(value)
    return shaping


def intervals_of_test_split(
    dataset: AudioDataset, scored: Mapping[str, ScoredSplit], args: AudioTrainingArguments
) -> dict[str, tuple[float, float]]:
    """95 % intervals of the metrics of the test split; none without one, or where no resamples are asked for."""
    if "test" not in scored or not args.bootstrap_resamples:
        return {}
    return bootstrap_intervals(
        dataset.problem_type,
        scored["test"].references,
        scored["test"].outputs,
        resamples=args.bootstrap_resamples,
        seed=args.seed,
    )


def write_report(
    folder: Path,
    results: Mapping[str, Any],
    dataset: AudioDataset,
    splits: Mapping[str, SplitFeatures],
    scored: Mapping[str, ScoredSplit],
    log_history: Sequence[Mapping[str, Any]],
) -> None:
    """Write predictions, figures, model card and, last, `all_results.json`: where that is, the run is complete.

    Raises:
        OutputError: If a file cannot be written.
    """
    figures = [("Learning curves", outputs.CURVES_NAME)]
    plots.save_learning_curves(log_history, folder / outputs.CURVES_NAME)
    if "test" in scored:
        test = scored["test"]
        write_atomically(folder / outputs.PREDICTIONS_NAME, predictions_csv(dataset, splits["test"].names, test))
        if dataset.problem_type == "single_label_classification":
            figures.append(("Confusion matrix of the test split", outputs.CONFUSION_NAME))
            plots.save_confusion_matrix(
                test.references, test.outputs.argmax(axis=-1), dataset.label_names, folder / outputs.CONFUSION_NAME
            )
        elif dataset.problem_type == "regression":
            figures.append(("Predicted over true values of the test split", outputs.SCATTER_NAME))
            plots.save_regression_scatter(
                test.references, test.outputs, dataset.label_names, folder / outputs.SCATTER_NAME
            )
    if scored:
        write_atomically(folder / outputs.CARD_NAME, render_model_card(card_data(folder, results, figures)))
    else:
        logger.warning("There is neither a validation nor a test split, so there is no model card: it needs a score.")
    write_json(folder / outputs.RESULTS_NAME, results)


def predictions_csv(dataset: AudioDataset, names: Sequence[str], split: ScoredSplit) -> str:
    """Predictions as CSV text: one row a clip, with its name, its label, the prediction and its score.

    The score is the softmax probability of the predicted class; multi-label predictions are joined by `;` and come with
    the sigmoid probability of every label; regressions have a pair of columns for each output.
    """
    labels = dataset.label_names
    rows: list[list[object]]
    if dataset.problem_type == "single_label_classification":
        header = ["file_name", "label", "prediction", "score"]
        shifted = split.outputs - split.outputs.max(axis=-1, keepdims=True)
        probabilities = np.exp(shifted) / np.exp(shifted).sum(axis=-1, keepdims=True)
        rows = [
            [name, labels[int(reference)], labels[int(row.argmax())], f"{row.max():.6f}"]
            for name, reference, row in zip(names, split.references, probabilities, strict=True)
        ]
    elif dataset.problem_type == "multi_label_classification":
        header = ["file_name", "label", "prediction", *(f"score_{label}" for label in labels)]
        probabilities = 1.0 / (1.0 + np.exp(-split.outputs.astype(np.float64)))
        rows = [
            [name, _joined(labels, reference > 0.5), _joined(labels, row > 0.5), *(f"{value:.6f}" for value in row)]
            for name, reference, row in zip(names, split.references, probabilities, strict=True)
        ]
    else:
        header = ["file_name", *(column for label in labels for column in (label, f"prediction_{label}"))]
        rows = [
            [name, *(f"{value:.6g}" for pair in zip(reference, row, strict=True) for value in pair)]
            for name, reference, row in zip(names, split.references, split.outputs, strict=True)
        ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def _joined(labels: Sequence[str], present: NDArray[np.bool_]) -> str:
    return ";".join(label for label, there in zip(labels, present, strict=True) if there)


def push(folder: Path, args: Any) -> str:
    """Upload a finished run, without checkpoints, and return its address.

    Raises:
        HubError: If the Hub refuses or cannot be reached; the folder is untouched.
    """
    return push_folder(
        folder,
        args.hub_model_id or folder.resolve().name,
        private=bool(args.hub_private_repo),
        commit_message="Trained with hf_audio_mamba",
        token=args.hub_token,
    )


def results_table(results: Mapping[str, Any]) -> str:
    """The scores of a run, and of its floor, as a small text table; for taggers with mean ROC-AUC and d-prime."""
    primary, *others = METRICS[results["problem_type"]]
    beside = [name for name in others if name in TABULATED]
    rows: dict[str, dict[str, str]] = {}
    for name, splits in {**results.get("floor", {}), results["model_type"]: results["metrics"]}.items():
        rows[name] = {f"{split} {primary}": f"{metrics[primary]:.3f}" for split, metrics in splits.items()}
        test = splits.get("test", {})
        rows[name] |= {f"test {metric}": f"{test[metric]:.3f}" for metric in beside if metric in test}
    if interval := results.get("intervals", {}).get(primary):
        rows[results["model_type"]]["95 % interval"] = f"{interval[0]:.3f} to {interval[1]:.3f}"
    if "deviations" in results:
        for split, metrics in results["deviations"].items():
            rows[results["model_type"]][f"{split} deviation"] = f"{metrics[primary]:.3f}"
    return format_table(rows)
