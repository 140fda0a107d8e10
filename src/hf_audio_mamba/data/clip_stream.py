"""Clips from shards as a stream of batches: read, decoded and turned into features as they come, never all at once.

Every process, and every loading worker of it, reads its own part. What it yields depends on the seed, the number of
the epoch, its place among all of them and the batch size, and on nothing else, so that a run can go on in mid-epoch.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from hf_audio_mamba._optional import require
from hf_audio_mamba.data.audio_dataset import AudioDataset, Clip
from hf_audio_mamba.data.augmentation import Features
from hf_audio_mamba.data.augmentation_config import AugmentationConfig
from hf_audio_mamba.data.feature_cache import FeatureTable, extract_features, feature_layout
from hf_audio_mamba.data.feature_dataset import FeatureDataset
from hf_audio_mamba.data.shards import LabelTable, StoredClip, count_clips, read_shard
from hf_audio_mamba.errors import AudioError, DataError, UsageError

logger = logging.getLogger(__name__)

Batch = list[dict[str, Any]]

MAX_WORKERS = 256
_CHECK_EVERY = 1000
"""Clips after which a part of the stream looks whether too many of them were unreadable."""


@dataclass(frozen=True)
class StreamPart:
    """Which part of a stream belongs to one reader.

    Attributes:
        index: Number of the reader, from 0.
        count: Readers in all: processes times loading workers.
    """

    index: int
    count: int


@dataclass(frozen=True)
class ShardSource:
    """Where clips come from.

    Attributes:
        shards: Files of one split.
        labels: The classes.
        audio_column: Column with the audio (Parquet).
        label_column: Column, or key of the `.json` files, with the label.
    """

    shards: Sequence[Path] = field(repr=False)
    labels: LabelTable = field(repr=False)
    audio_column: str = "audio"
    label_column: str = "label"

    def clips(self, part: StreamPart, *, seed: int, epoch: int, shuffle_buffer: int) -> Iterator[StoredClip]:
        """The clips of a reader in the order of an epoch, still encoded.

        Shards are shuffled, then the clips of the reader within a buffer. Where the number of readers divides that of
        shards, each reads shards of its own, and otherwise all read everything and keep every n-th clip.

        Args:
            part: The reader.
            seed: First part of what the order depends on.
            epoch: Second part.
            shuffle_buffer: Clips in the buffer; 0 leaves everything in the order of the shards.
        """
        read = partial(_read, audio_column=self.audio_column, label_column=self.label_column)
        stream = self._stream(read, part, seed=seed, epoch=epoch, shuffle_buffer=shuffle_buffer)
        return (StoredClip(**{name: values[0] for name, values in rows.items()}) for rows in stream)

    def count(self, part: StreamPart, *, seed: int, epoch: int, shuffle_buffer: int) -> int:
        """How many clips `clips` yields, without reading their audio."""
        buffer = min(shuffle_buffer, 1)  # the order of shards decides who reads what; that of clips does not matter
        return sum(1 for _ in self._stream(_number, part, seed=seed, epoch=epoch, shuffle_buffer=buffer))

    def _stream(self, read: Callable[..., Any], part: StreamPart, *, seed: int, epoch: int, shuffle_buffer: int) -> Any:
        datasets = require("datasets", extra="train", purpose="streaming clips")
        stream = datasets.IterableDataset.from_generator(read, gen_kwargs={"shards": [str(p) for p in self.shards]})
        if shuffle_buffer:
            # An odd multiplier keeps (seed, epoch) pairs from meeting, as seed + epoch would.
            stream = stream.shuffle(seed=(seed * 1_000_003 + epoch) % (1 << 63), buffer_size=shuffle_buffer)
        distributed = require("datasets.distributed", extra="train", purpose="streaming clips")
        stream = distributed.split_dataset_by_node(stream, rank=part.index, world_size=part.count)
        # Plain iteration would divide the part among loading workers once more, and leave some without any.
        return stream.iter(batch_size=1)


def _read(shards: list[str], *, audio_column: str, label_column: str) -> Iterator[dict[str, Any]]:
    for shard in shards:
        for clip in read_shard(Path(shard), audio_column=audio_column, label_column=label_column):
            yield {"name": clip.name, "audio": clip.audio, "label": clip.label}


def _number(shards: list[str]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        yield from ({"number": number} for number in range(count_clips(Path(shard))))


class ClipStream(IterableDataset[Batch | None]):
    """Batches of items like those of `FeatureDataset`, each a list; for a `DataLoader` with `batch_size=None`.

    A training stream never ends: one epoch follows the other, and batches go on over their border. A clip that cannot
    be read is replaced by another one of its batch, so that batches keep their places. An evaluation stream is one pass
    in the order of the shards, without such clips; its items also hold the `name` of their clip.

    Args:
        source: The shards.
        dataset: Turns labels into numbers, see `AudioDataset.encode`.
        feature_extractor: Turns audio into features.
        batch_size: Clips in a batch.
        training: Whether the stream is for training.
        rank: Number of this process.
        world_size: Number of processes.
        seed: Of the order and of the augmentation.
        shuffle_buffer: Encoded clips that each reader holds in memory to shuffle them.
        max_corrupt_fraction: Largest share of a reader's clips that may be unreadable.
        augmentation: Changes to training clips; mixing takes partners from the same batch.
        max_frames: As in `FeatureDataset`.

    Attributes:
        start_batch: Batches of this process that a resumed run has seen. The stream yields None in their place, without
            decoding what it passes over.
        roll_frames: Circular shift of every clip of an evaluation, in frames, towards its end.
        shuffle_buffer: As given; 0 for evaluation.
        names: Names of the clips of an evaluation, once it is done, in the order of its outputs.
        num_unreadable: Clips that could not be read in that evaluation, by all processes.

    Raises:
        UsageError: If a number is out of range.
    """

    def __init__(
        self,
        source: ShardSource,
        dataset: AudioDataset,
        feature_extractor: Any,
        *,
        batch_size: int,
        training: bool,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        shuffle_buffer: int = 1000,
        max_corrupt_fraction: float = 0.01,
        augmentation: AugmentationConfig | None = None,
        max_frames: int | None = None,
    ) -> None:
        if batch_size < 1 or shuffle_buffer < 0:
            raise UsageError(
                f"batch_size {batch_size} must be at least 1 and shuffle_buffer {shuffle_buffer} 0 or more"
            )
        self.source = source
        self.training = training
        self.batch_size = batch_size
        self.start_batch = 0
        self.roll_frames = 0
        self.names: list[str] = []
        self.num_unreadable = 0
        self._dataset = dataset
        self._feature_extractor = feature_extractor
        self._layout = feature_layout(feature_extractor)
        self._place = (rank, world_size)
        self._seed = seed
        self.shuffle_buffer = shuffle_buffer if training else 0
        self._max_corrupt_fraction = max_corrupt_fraction
        self._augmentation = augmentation
        self._max_frames = max_frames
        # In shared memory, with a place for each worker: what they skip is known here.
        self._skipped = torch.zeros(MAX_WORKERS, dtype=torch.int64)
        self._skipped.share_memory_()  # type: ignore[no-untyped-call]  # torch does not annotate it

    @property
    def num_skipped(self) -> int:
        """Clips that this process could not read so far, in all of its workers."""
        return int(self._skipped.sum())

    def __iter__(self) -> Iterator[Batch | None]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        if workers > MAX_WORKERS:
            raise UsageError(f"--dataloader_num_workers is {workers}; a stream takes at most {MAX_WORKERS}")
        rank, world_size = self._place
        part = StreamPart(rank * workers + worker, world_size * workers)
        # The loader takes batches from its workers in turn.
        passed = max(0, -(-(self.start_batch - worker) // workers))
        yield from (None for _ in range(passed))
        clips = self._clips(part, passed * self.batch_size)
        for number in count(passed):
            stored = list(islice(clips, self.batch_size))
            if not stored:
                return
            batch = self._batch(stored, part, number, worker)
            if batch:
                yield batch

    def _clips(self, part: StreamPart, passed: int) -> Iterator[StoredClip]:
        """The clips of a reader after the first so many, over all epochs of a training stream."""
        order = {"seed": self._seed, "shuffle_buffer": self.shuffle_buffer}
        if not self.training:
            return self.source.clips(part, epoch=0, **order)
        epoch = 0
        while passed and (size := self.source.count(part, epoch=epoch, **order)) <= passed:
            if size == 0:
                break
            passed -= size
            epoch += 1
        first = islice(self.source.clips(part, epoch=epoch, **order), passed, None)
        later = (self.source.clips(part, epoch=number, **order) for number in count(epoch + 1))
        return chain(first, chain.from_iterable(_nonempty(later, part)))

    def _batch(self, stored: Sequence[StoredClip], part: StreamPart, number: int, worker: int) -> Batch:
        decoded = [item for clip in stored if (item := self._decoded(clip, worker)) is not None]
        self._check_skipped(worker, (number + 1) * self.batch_size)
        if not self.training:
            return [
                {"input_values": np.roll(features, self.roll_frames, axis=0), "labels": label, "name": name}
                for name, features, label in decoded
            ]
        if not decoded:
            raise DataError(
                f"none of the {len(stored)} clips of a batch can be read (the first is {stored[0].name}); repair the "
                "shards, or raise --per_device_train_batch_size"
            )
        items = FeatureDataset(
            FeatureTable(
                sources=[features for _, features, _ in decoded],
                lengths=[len(features) for _, features, _ in decoded],
                kept=list(range(len(decoded))),
                skipped=[],
                layout=self._layout,
                num_cached=0,
            ),
            [label for _, _, label in decoded],
            augmentation=self._augmentation,
            seed=int(np.random.SeedSequence((self._seed, part.index, number)).generate_state(1, np.uint64)[0]),
            max_frames=self._max_frames,
            num_labels=len(self._dataset.label_names),
        )
        return [items[index % len(decoded)] for index in range(len(stored))]

    def _decoded(self, stored: StoredClip, worker: int) -> tuple[str, Features, Any] | None:
        multi_label = self._dataset.problem_type == "multi_label_classification"
        label = self.source.labels.label(stored.label, multi_label=multi_label, where=stored.name)
        clip = Clip(stored.name, label, audio=stored.audio)
        try:
            return (
                stored.name,
                extract_features(self._feature_extractor, clip, stored.audio),
                self._dataset.encode(clip),
            )
        except AudioError as error:
            self._skipped[worker] += 1
            logger.warning("%s cannot be read and is skipped: %s", stored.name, error)
            return None

    def _check_skipped(self, worker: int, seen: int) -> None:
        skipped = int(self._skipped[worker])
        if (
            seen % _CHECK_EVERY < self.batch_size
            and seen >= _CHECK_EVERY
            and skipped > self._max_corrupt_fraction * seen
        ):
            raise DataError(
                f"{skipped} of the first {seen} clips cannot be read, more than --max_corrupt_fraction "
                f"{self._max_corrupt_fraction:g}; repair the shards or raise it"
            )


def _nonempty(epochs: Iterator[Iterator[StoredClip]], part: StreamPart) -> Iterator[Iterator[StoredClip]]:
    """Pass epochs on; an epoch without a clip would be followed by others without end."""
    for epoch in epochs:
        first = next(epoch, None)
        if first is None:
            raise DataError(
                f"the training shards hold no clip for reader {part.index + 1} of {part.count}; use fewer processes or "
                "--dataloader_num_workers, or make more shards"
            )
        yield chain([first], epoch)
