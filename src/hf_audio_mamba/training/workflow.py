"""A whole training run: data, features, model, training, evaluation, results on the disk."""

import copy
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from transformers import set_seed

from hf_audio_mamba.data import AudioCollator, AudioDataset, FeatureDataset
from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.training import output_dir as outputs
from hf_audio_mamba.training.arguments import AudioTrainingArguments, DataArguments, ModelArguments
from hf_audio_mamba.training.averaging import average_outputs
from hf_audio_mamba.training.cross_validation import cross_validate
from hf_audio_mamba.training.floor import floor_scores, summarise
from hf_audio_mamba.training.metrics import score, undefined_labels
from hf_audio_mamba.training.preparation import (
    SplitFeatures,
    add_transposed_copies,
    build_model,
    compute_split_features,
    fit_to_splits,
    load_dataset,
    shifts_of_test_clips,
    training_dataset,
)
from hf_audio_mamba.training.report import (
    ScoredSplit,
    describe_run,
    intervals_of_test_split,
    push,
    write_report,
)
from hf_audio_mamba.training.stream_workflow import train_on_stream
from hf_audio_mamba.training.trainer import AudioTrainer

logger = logging.getLogger(__name__)


def run(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: AudioTrainingArguments,
    *,
    command: str | None = None,
) -> dict[str, Any]:
    """Train a model, evaluate it once on the test split, and write everything into `output_dir`.

    Written are the model and its feature extractor, `all_results.json`, `test_predictions.csv`, figures and a model
    card; with `push_to_hub` all of it is uploaded at the end. The validation split chooses the checkpoint; the test
    split is read once, after that.

    Args:
        model_args: Which model.
        data_args: Which data; `fold="all"` trains one model for each fold in sub-folders.
        training_args: How to train.
        command: The command line, recorded with the results.

    Returns:
        What `all_results.json` holds.

    Raises:
        UsageError: If arguments contradict each other or the data.
        DataError: If the data cannot be used.
        CheckpointError: If a model or checkpoint cannot be used.
        OutputError: If results cannot be written or the folder is in use.
        HubError: If the upload failed; everything is in `output_dir` then.
    """
    if data_args.fold == "all" and training_args.push_to_hub:
        raise UsageError("--fold all makes several models; push the one you want, without --push_to_hub here.")
    # The Trainer would push on its own at each save; this package pushes the finished folder.
    args = copy.copy(training_args)
    args.push_to_hub = False
    # Transformers writes its arguments into every checkpoint, a token among them.
    args.hub_token = None
    with _owned_folder(args) as folder:
        if data_args.fold == "all":

            def run_fold(fold_data: DataArguments, fold_folder: Path) -> dict[str, Any]:
                fold_args = copy.copy(args)
                fold_args.output_dir = str(fold_folder)
                return _run_once(model_args, fold_data, fold_args, fold_folder, command=command)

            return cross_validate(data_args, folder, run_fold, is_main=args.process_index == 0)
        results = _run_once(model_args, data_args, args, folder, command=command)
        if training_args.push_to_hub and args.process_index == 0:
            push(folder, training_args)
    return results


@contextmanager
def _owned_folder(args: AudioTrainingArguments) -> Iterator[Path]:
    """Claim the output folder in the main process; the others wait until it is ready."""
    if args.process_index == 0:
        with outputs.claimed(str(args.output_dir)) as folder:
            outputs.prepare(folder, args)
            yield folder
    else:
        yield Path(str(args.output_dir))


def _run_once(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: AudioTrainingArguments,
    folder: Path,
    *,
    command: str | None,
) -> dict[str, Any]:
    """One run in a folder that this process holds; see `run`."""
    if args.resume and (finished := outputs.finished_results(folder)) is not None:
        logger.warning("%s holds a finished run; there is nothing left to train.", folder)
        return finished
    train = train_on_stream if data_args.streaming else _train_and_evaluate
    return train(model_args, data_args, args, folder, command=command)


def _train_and_evaluate(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: AudioTrainingArguments,
    folder: Path,
    *,
    command: str | None,
) -> dict[str, Any]:
    """One run on clips, whose features are all at hand; see `run`."""
    dataset = load_dataset(data_args)
    fit_to_splits(args, dataset)
    set_seed(args.seed)
    model, feature_extractor = build_model(model_args, dataset)
    shifts = {"test": shifts_of_test_clips(args, dataset, feature_extractor)}
    with args.main_process_first(desc="features"):
        progress = args.process_index == 0 and sys.stderr.isatty()
        splits = compute_split_features(dataset, feature_extractor, data_args, progress=progress)
        training = add_transposed_copies(splits["train"], dataset, feature_extractor, data_args, progress=progress)
    trainer = AudioTrainer(
        model,
        args,
        data_collator=AudioCollator(feature_extractor),
        train_dataset=training_dataset(
            training, data_args, feature_extractor, num_labels=len(dataset.label_names), seed=args.seed
        ),
        eval_dataset=_evaluation_dataset(splits["validation"]) if "validation" in splits else None,
        feature_extractor=feature_extractor,
        train_labels=training.labels,
    )
    start = time.perf_counter()
    trained = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint or args.resume)
    seconds = time.perf_counter() - start
    scored: dict[str, ScoredSplit] = {
        split: _score_split(trainer, dataset, splits[split], shifts.get(split, [0]))
        for split in ("validation", "test")
        if split in splits
    }
    results = describe_run(
        dataset, splits, trainer, (model_args, data_args, args), train_seconds=seconds, command=command
    )
    results["train_loss"] = trained.training_loss
    results["metrics"] = {split: values.metrics for split, values in scored.items()}
    results["undefined_labels"] = {
        split: undefined_labels(dataset.problem_type, values.references) for split, values in scored.items()
    }
    if trainer.is_world_process_zero():
        results["intervals"] = intervals_of_test_split(dataset, scored, args)
        results["floor"] = _floor(dataset, splits) if args.floor else {}
        trainer.save_final_model(folder)
        write_report(folder, results, dataset, splits, scored, trainer.state.log_history)
    return results


def _evaluation_dataset(split: SplitFeatures, shift: int = 0) -> FeatureDataset:
    return FeatureDataset(split.table, split.labels, roll_frames=shift)


def _score_split(
    trainer: AudioTrainer, dataset: AudioDataset, split: SplitFeatures, shifts: Sequence[int]
) -> ScoredSplit:
    """Outputs of the trained model for a split, regression values in the unit of the labels, and their metrics."""
    outputs, references = [], np.empty(0)
    for shift in shifts:
        prediction = trainer.predict(_evaluation_dataset(split, shift))
        predicted = prediction.predictions
        outputs.append(predicted[0] if isinstance(predicted, tuple) else predicted)
        references = np.asarray(prediction.label_ids)
    predicted = outputs[0] if len(outputs) == 1 else average_outputs(dataset.problem_type, outputs)
    if dataset.problem_type == "regression":
        rows = (len(references), -1)
        predicted = np.asarray([dataset.decode_regression(row) for row in predicted.reshape(rows).tolist()])
        references = np.asarray([dataset.decode_regression(row) for row in references.reshape(rows).tolist()])
    return ScoredSplit(references, predicted, score(dataset.problem_type, references, predicted))


def _floor(dataset: AudioDataset, splits: dict[str, SplitFeatures]) -> dict[str, dict[str, dict[str, float]]]:
    logger.info("Fitting the floor: majority class and a linear model on features averaged over time.")
    summaries = {
        name: (
            summarise(split.table.load(index) for index in range(len(split.table))),
            np.asarray(split.labels),
        )
        for name, split in splits.items()
    }
    train = summaries.pop("train")
    return floor_scores(dataset.problem_type, train, summaries, num_labels=len(dataset.label_names))
