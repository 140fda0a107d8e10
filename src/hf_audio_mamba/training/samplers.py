"""The order of training clips: a function of seed and epoch alone, so that a resumed run sees what it would have."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from hf_audio_mamba.data import ClassBalancedSampler, LengthGroupedSampler
from hf_audio_mamba.errors import UsageError


class ShuffledSampler(Sampler[int]):
    """Every clip once, in an order drawn from (seed, epoch), or always in the order of the data set.

    Args:
        size: Number of clips.
        seed: First part of the seed of each epoch's order.
        shuffle: Whether to shuffle at all.
    """

    def __init__(self, size: int, *, seed: int = 0, shuffle: bool = True) -> None:
        self._size = size
        self._seed = seed
        self._shuffle = shuffle
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        if not self._shuffle:
            return iter(range(self._size))
        # An odd multiplier keeps (seed, epoch) pairs from meeting, as seed + epoch would.
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + self._epoch) % (1 << 63))
        return iter(torch.randperm(self._size, generator=generator).tolist())


EpochSampler = ShuffledSampler | ClassBalancedSampler | LengthGroupedSampler


def training_sampler(
    strategy: str,
    size: int,
    *,
    seed: int,
    batch_size: int,
    lengths: Sequence[int] | None = None,
    labels: Sequence[Any] | None = None,
) -> EpochSampler:
    """The sampler of `--train_sampling_strategy`.

    Args:
        strategy: `random`, `sequential`, `group_by_length` or `class_balanced`.
        size: Number of clips.
        seed: Of the order.
        batch_size: Clips of one step over all processes, for `group_by_length`.
        lengths: Frames of each clip, for `group_by_length`.
        labels: Label of each clip, for `class_balanced`.

    Raises:
        UsageError: If the strategy is unknown or lacks what it needs.
    """
    if strategy in ("random", "sequential"):
        return ShuffledSampler(size, seed=seed, shuffle=strategy == "random")
    if strategy == "group_by_length" and lengths is not None:
        return LengthGroupedSampler(lengths, batch_size, seed=seed)
    if strategy == "class_balanced" and labels is not None:
        return ClassBalancedSampler(labels, seed=seed)
    raise UsageError(f"--train_sampling_strategy {strategy} cannot serve this training data; use random.")
