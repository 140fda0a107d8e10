"""What a run on shards needs in place of clips and cached features."""

import json
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from hf_audio_mamba.data import (
    AudioCollator,
    AudioDataset,
    ClipStream,
    ShardSource,
    find_shards,
    read_label_table,
)
from hf_audio_mamba.errors import CheckpointError, UsageError
from hf_audio_mamba.training.arguments import AudioTrainingArguments, DataArguments
from hf_audio_mamba.training.checkpoints import write_json
from hf_audio_mamba.training.preparation import augmentation_config, max_training_frames

logger = logging.getLogger(__name__)

STATE_NAME = "stream.json"
"""In a checkpoint: what the order of clips depends on, besides the seed."""


def load_shards(args: DataArguments) -> tuple[AudioDataset, dict[str, ShardSource]]:
    """Find the shards that arguments name.

    Returns:
        A data set with the names of the classes and of the splits, and no clips in them; and the shards of each split.

    Raises:
        DataError: If there are none, or the class names are missing.
    """
    root = Path(str(args.data_dir))
    labels = read_label_table(root, args.label_file)
    sources = {
        split: ShardSource(shards, labels, audio_column=args.audio_column, label_column=args.label_column)
        for split, shards in find_shards(root).items()
    }
    info = {
        "source": f"shards in {root.name or root}",
        "shards": ", ".join(f"{split} {len(source.shards)}" for split, source in sources.items()),
    }
    name = root.resolve().name
    return AudioDataset(name, {split: [] for split in sources}, labels.names, args.problem_type, info), sources


def make_streams(
    sources: Mapping[str, ShardSource],
    dataset: AudioDataset,
    feature_extractor: Any,
    data_args: DataArguments,
    args: AudioTrainingArguments,
) -> dict[str, ClipStream]:
    """A stream for each split, the part of this process.

    Raises:
        UsageError: If training arguments do not go with a stream.
    """
    if args.max_steps <= 0:
        raise UsageError("--streaming needs --max_steps: the length of a stream says nothing about that of training.")
    if args.train_sampling_strategy != "random":
        raise UsageError(
            f"--train_sampling_strategy {args.train_sampling_strategy} cannot pick clips from a stream; use random, "
            "with shards that `hf-audio-mamba shards --balance_classes` has balanced."
        )
    readers = args.world_size * max(args.dataloader_num_workers, 1)
    if len(sources["train"].shards) % readers:
        logger.warning(
            "%d readers (processes times loading workers) share %d training shards: every one of them reads all shards "
            "and keeps its part. A multiple of their number would let each read its own.",
            readers,
            len(sources["train"].shards),
        )
    shared = {
        "rank": args.process_index,
        "world_size": args.world_size,
        "seed": args.seed,
        "max_corrupt_fraction": data_args.max_corrupt_fraction,
    }
    streams = {
        split: ClipStream(source, dataset, feature_extractor, batch_size=args.eval_batch_size, training=False, **shared)
        for split, source in sources.items()
        if split != "train"
    }
    streams["train"] = ClipStream(
        sources["train"],
        dataset,
        feature_extractor,
        batch_size=args.train_batch_size,
        training=True,
        shuffle_buffer=data_args.shuffle_buffer,
        augmentation=augmentation_config(data_args),
        max_frames=max_training_frames(data_args, feature_extractor),
        **shared,
    )
    return streams


def stream_loader(stream: ClipStream, collator: AudioCollator, num_workers: int) -> DataLoader[Any]:
    """A loader that hands on the batches of a stream; None, for batches that are passed over, stays None."""
    return DataLoader(stream, batch_size=None, num_workers=num_workers, collate_fn=partial(_collate, collator=collator))


def _collate(items: Any, *, collator: AudioCollator) -> Any:
    if items is None:
        return None
    batch: dict[str, Any] = dict(collator(items))
    if "name" in items[0]:
        batch["names"] = [item["name"] for item in items]
    return batch


def stream_state(stream: ClipStream, args: AudioTrainingArguments) -> dict[str, Any]:
    """What must be the same for a resumed run to see the clips that the interrupted one would have seen."""
    return {
        "shards": [path.name for path in stream.source.shards],
        "world_size": args.world_size,
        "dataloader_num_workers": args.dataloader_num_workers,
        "per_device_train_batch_size": args.per_device_train_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "seed": args.seed,
        "shuffle_buffer": stream.shuffle_buffer,
    }


def save_stream_state(folder: Path, stream: ClipStream, args: AudioTrainingArguments) -> None:
    """Write the state of a stream into a checkpoint."""
    write_json(folder / STATE_NAME, stream_state(stream, args))


def resume_stream(checkpoint: Path, stream: ClipStream, args: AudioTrainingArguments) -> None:
    """Let a stream start where a checkpoint was written.

    Raises:
        CheckpointError: If the checkpoint is not from this stream.
    """
    try:
        stored = json.loads((checkpoint / STATE_NAME).read_text(encoding="utf-8"))
        step = int(json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["global_step"])
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{checkpoint} tells no place in a stream of clips to go on from: {error}.") from error
    now = stream_state(stream, args)
    if different := [name for name in now if stored.get(name) != now[name]]:
        name = different[0]
        raise CheckpointError(
            f"{checkpoint} was written with {name} {stored.get(name)!r}, now it is {now[name]!r}: the run would see "
            "other clips. Resume as it was started, or start a new run from its weights with --model_name_or_path."
        )
    stream.start_batch = step * args.gradient_accumulation_steps
