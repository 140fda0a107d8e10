"""A whole training run on a stream of shards; `hf_audio_mamba.training.workflow` has the run on clips."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import set_seed

from hf_audio_mamba.data import AudioCollator, AudioDataset, ClipStream, FeatureTable, total_clips
from hf_audio_mamba.data.feature_cache import feature_layout
from hf_audio_mamba.errors import DataError
from hf_audio_mamba.training.arguments import AudioTrainingArguments, DataArguments, ModelArguments
from hf_audio_mamba.training.averaging import average_outputs
from hf_audio_mamba.training.metrics import score, undefined_labels
from hf_audio_mamba.training.preparation import SplitFeatures, build_model, fit_to_splits, shifts_of_test_clips
from hf_audio_mamba.training.report import ScoredSplit, describe_run, intervals_of_test_split, write_report
from hf_audio_mamba.training.streaming import load_shards, make_streams
from hf_audio_mamba.training.trainer import AudioTrainer


def train_on_stream(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: AudioTrainingArguments,
    folder: Path,
    *,
    command: str | None,
) -> dict[str, Any]:
    """Train, evaluate and report as a run on clips does, without a floor: that would need all features at once.

    Args:
        model_args: Which model.
        data_args: Which shards.
        args: How to train; with `max_steps`.
        folder: Folder that this process holds.
        command: The command line, recorded with the results.

    Returns:
        What `all_results.json` holds, with `unreadable` as the number of clips of each split that were skipped; those
        of the training split count once for each time that the stream came by.

    Raises:
        UsageError: If arguments do not go with a stream.
        DataError: If the shards cannot be used.
        CheckpointError: If a model or checkpoint cannot be used.
        OutputError: If results cannot be written.
    """
    dataset, sources = load_shards(data_args)
    fit_to_splits(args, dataset)
    set_seed(args.seed)
    model, feature_extractor = build_model(model_args, dataset)
    shifts = {"test": shifts_of_test_clips(args, dataset, feature_extractor)}
    streams = make_streams(sources, dataset, feature_extractor, data_args, args)
    trainer = AudioTrainer(
        model,
        args,
        data_collator=AudioCollator(feature_extractor),
        train_dataset=streams["train"],
        eval_dataset=streams.get("validation"),
        feature_extractor=feature_extractor,
    )
    start = time.perf_counter()
    trained = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint or args.resume)
    seconds = time.perf_counter() - start
    scored: dict[str, ScoredSplit] = {
        split: _score(trainer, dataset, streams[split], shifts.get(split, [0]), data_args.max_corrupt_fraction)
        for split in ("validation", "test")
        if split in streams
    }
    unreadable = trainer.gather_count(streams["train"].num_skipped)
    if not trainer.is_world_process_zero():
        return {"metrics": {split: values.metrics for split, values in scored.items()}}
    splits = _read_splits(streams, feature_extractor)
    dataset = replace(dataset, info={**dataset.info, "clips": _sizes(splits)})
    results = describe_run(
        dataset, splits, trainer, (model_args, data_args, args), train_seconds=seconds, command=command
    )
    results["unreadable"] = {"train": unreadable} | {split: streams[split].num_unreadable for split in scored}
    results["train_loss"] = trained.training_loss
    # The Trainer counts all steps as one epoch.
    heard = results["steps"] * args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    results["epochs"] = round(heard / results["clips"]["train"], 4)
    results |= _scores(dataset, scored, args)
    trainer.save_final_model(folder)
    write_report(folder, results, dataset, splits, scored, trainer.state.log_history)
    return results


def _scores(dataset: AudioDataset, scored: Mapping[str, ScoredSplit], args: AudioTrainingArguments) -> dict[str, Any]:
    return {
        # Nothing keeps the lengths of clips that went by.
        "hours": {},
        "metrics": {split: values.metrics for split, values in scored.items()},
        "undefined_labels": {
            split: undefined_labels(dataset.problem_type, values.references) for split, values in scored.items()
        },
        "intervals": intervals_of_test_split(dataset, scored, args),
        "floor": {},
    }


def _score(
    trainer: AudioTrainer,
    dataset: AudioDataset,
    stream: ClipStream,
    shifts: Sequence[int],
    max_corrupt_fraction: float,
) -> ScoredSplit:
    outputs, references = [], np.empty(0)
    for shift in shifts:
        stream.roll_frames = shift
        prediction = trainer.predict(stream)
        outputs.append(np.asarray(prediction.predictions))
        references = np.asarray(prediction.label_ids)
    clips = len(stream.names) + stream.num_unreadable
    if stream.num_unreadable > max_corrupt_fraction * clips:
        raise DataError(
            f"{stream.num_unreadable} of the {clips} clips of {stream.source.shards[0].parent} cannot be read, more "
            f"than --max_corrupt_fraction {max_corrupt_fraction:g}; repair the shards or raise it"
        )
    averaged = outputs[0] if len(outputs) == 1 else average_outputs(dataset.problem_type, outputs)
    return ScoredSplit(references, averaged, score(dataset.problem_type, references, averaged))


def _read_splits(streams: Mapping[str, ClipStream], feature_extractor: Any) -> dict[str, SplitFeatures]:
    """What a report asks of a split: how many clips it has and what they are called."""
    table = FeatureTable([], [], [], [], feature_layout(feature_extractor), 0)
    return {
        split: SplitFeatures(table, [None] * (len(names) or total_clips(streams[split].source.shards)), names)
        for split in ("train", "validation", "test")
        if split in streams
        for names in [streams[split].names]
    }


def _sizes(splits: Mapping[str, SplitFeatures]) -> str:
    return ", ".join(f"{split} {len(values.labels)}" for split, values in splits.items())
