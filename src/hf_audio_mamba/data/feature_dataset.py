"""Features as a torch data set with augmentation on the fly, and their batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hf_audio_mamba.data.augmentation import Features, augment
from hf_audio_mamba.data.augmentation_config import AugmentationConfig
from hf_audio_mamba.data.feature_cache import FeatureTable
from hf_audio_mamba.data.mixing import cutmix, mix, mix_powers
from hf_audio_mamba.errors import ShapeError, UsageError


class FeatureDataset(Dataset[dict[str, Any]]):
    """Clips of a `FeatureTable` with their labels.

    Every random draw comes from a generator seeded by `(seed, epoch, index)` and nothing else: an item is the
    same in any worker, in any order, and after a resume.

    An item is `{"input_values": (frames, bands) float32, "labels": ...}`. Labels are an `int` for a class
    index, and a
    float32 vector otherwise: `(num_labels,)` class weights with mixup or CutMix (they sum to 1, for a cross-entropy
    with soft targets), `(num_labels,)` for multi-label and `(targets,)` for regression.

    Args:
        table: Features.
        labels: Encoded label of each clip of the table, as `AudioDataset.encode` makes them.
        augmentation: Changes to training clips; `None` for evaluation.
        seed: First part of the seed of every draw.
        max_frames: Longer clips are cut to this length: at a random place with `augmentation`, else in the
            middle.
        num_labels: Number of classes; needed for mixup and CutMix of class indices.
        roll_frames: Circular shift of every clip, in frames, towards its end.

    Raises:
        ShapeError: If there is not one label for each clip.
        UsageError: If `max_frames` is below 1, `num_labels` is missing or too small for mixup or CutMix, or powers are
            to be mixed where the features do not tell what a decibel is.
    """

    def __init__(
        self,
        table: FeatureTable,
        labels: Sequence[int | Sequence[float]],
        *,
        augmentation: AugmentationConfig | None = None,
        seed: int = 0,
        max_frames: int | None = None,
        num_labels: int | None = None,
        roll_frames: int = 0,
    ) -> None:
        if len(labels) != len(table):
            raise ShapeError(f"{len(labels)} labels were given for {len(table)} clips; select them with table.kept")
        if max_frames is not None and max_frames < 1:
            raise UsageError(f"max_frames is {max_frames}, but must be at least 1")
        self._table = table
        self._labels = [label if isinstance(label, int) else np.asarray(label, np.float32) for label in labels]
        self._augmentation = augmentation
        self._seed = seed
        self._max_frames = max_frames
        self._num_labels = num_labels
        self._roll_frames = roll_frames
        # In shared memory, so that workers of a DataLoader that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # torch does not annotate it
        if augmentation is not None:
            self._check_mixable(augmentation)

    def _check_mixable(self, augmentation: AugmentationConfig) -> None:
        if augmentation.mixup_power and not self._table.layout.units_per_db:
            raise UsageError(
                "mixup_power: the features of this model do not tell what a decibel is; leave it out to mix features"
            )
        classes = [label for label in self._labels if isinstance(label, int)]
        if not augmentation.softens_labels or not classes:
            return
        if self._num_labels is None or self._num_labels <= max(classes):
            raise UsageError(f"mixup and CutMix need num_labels, above the largest class index {max(classes)}")

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of an epoch; reaches running DataLoader workers."""
        self._epoch.fill_(epoch)

    @property
    def lengths(self) -> list[int]:
        """Frames of each item."""
        limit = self._max_frames
        return [length if limit is None else min(length, limit) for length in self._table.lengths]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        label = self._labels[index]
        if self._augmentation is None:
            features = self._crop(self._load(index), None)
            return {"input_values": features, "labels": label}
        generator = np.random.default_rng((self._seed, int(self._epoch), index))
        features = self._crop(self._load(index), generator)
        if self._augmentation.mixup_rate or self._augmentation.cutmix_rate:
            features, label = self._combine(features, index, self._augmentation, generator)
        return {
            "input_values": augment(features, self._table.layout, self._augmentation, generator),
            "labels": label,
        }

    def _load(self, index: int) -> Features:
        features = self._table.load(index)
        return np.roll(features, self._roll_frames, axis=0) if self._roll_frames else features

    def _crop(self, features: Features, generator: np.random.Generator | None) -> Features:
        slack = len(features) - (self._max_frames or len(features))
        if slack <= 0:
            return features
        start = slack // 2 if generator is None else int(generator.integers(slack + 1))
        return features[start : start + (self._max_frames or 0)]

    def _combine(
        self, features: Features, index: int, config: AugmentationConfig, generator: np.random.Generator
    ) -> tuple[Features, Any]:
        """Mixup or CutMix with another clip, or neither, and the label that follows."""
        partner = int(generator.integers(len(self)))
        weight = float(generator.beta(config.mixup_alpha, config.mixup_alpha)) if config.mixes else 1.0
        # The clip itself keeps the larger share: it decides the length and where the crop is.
        weight = max(weight, 1 - weight)
        choice = generator.random() - config.mixup_rate
        if choice >= config.cutmix_rate:
            return features, self._soft_label(index, config)
        layout, other = self._table.layout, self._crop(self._load(partner), generator)
        if choice < 0:
            mixed = (mix_powers if config.mixup_power else mix)(features, other, weight, layout, generator)
            if not config.mixup_labels:
                return mixed, self._soft_label(index, config)
        else:
            kept = float(generator.beta(config.cutmix_alpha, config.cutmix_alpha))
            mixed, weight = cutmix(features, other, kept, layout, generator)
        own, others = self._soft_label(index, config), self._soft_label(partner, config)
        return mixed, np.float32(weight) * own + np.float32(1 - weight) * others

    def _soft_label(self, index: int, config: AugmentationConfig) -> Any:
        label = self._labels[index]
        if not isinstance(label, int) or not config.softens_labels:
            return label
        assert self._num_labels is not None
        weights = np.zeros(self._num_labels, dtype=np.float32)
        weights[label] = 1.0
        return weights


class AudioCollator:
    """Batches of items, padded to the longest one on the extractor's `padding_side`.

    A batch is `{"input_values": (batch, frames, bands) float32, "attention_mask": (batch, frames) int64,
    "labels": ...}` with labels `(batch,)` int64 for class indices and `(batch, labels)` float32 otherwise.

    Args:
        feature_extractor: A `SequenceFeatureExtractor` that pads.
        pad_to_multiple_of: Round the frames of a batch up to a multiple of this.
    """

    def __init__(self, feature_extractor: Any, *, pad_to_multiple_of: int | None = None) -> None:
        self._feature_extractor = feature_extractor
        self._pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad and stack items of a `FeatureDataset`."""
        batch = self._feature_extractor.pad(
            {"input_values": [item["input_values"] for item in items]},
            padding=True,
            pad_to_multiple_of=self._pad_to_multiple_of,
            return_attention_mask=True,
            return_tensors="pt",
        )
        tensors = {"input_values": batch["input_values"], "attention_mask": batch["attention_mask"].long()}
        if "labels" in items[0]:
            labels = [item["labels"] for item in items]
            tensors["labels"] = torch.from_numpy(
                np.asarray(labels, np.int64 if isinstance(labels[0], int) else np.float32)
            )
        return tensors
