"""Orders of training clips. Each is a function of (seed, epoch) alone, so that a resumed epoch has the same order."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from hf_audio_mamba.errors import ShapeError, UsageError

# Batches that are sorted together: enough to find partners of equal length, few enough to keep the order random.
_BATCHES_PER_POOL = 50

# Stands for the class of clips that have none.
_NO_CLASS = -1


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


class ClassBalancedSampler(Sampler[int]):
    """Draws clips with replacement so that every class is expected equally often.

    A clip's weight is the sum over its classes of one over the number of clips of that class. A clip without
    any class (multi-label only) counts as one of a class of its own kind.

    Args:
        labels: Class index of each clip, or its 0/1 vector.
        seed: First part of the seed.

    Raises:
        ShapeError: If there are no labels.
    """

    def __init__(self, labels: Sequence[int | Sequence[float]], *, seed: int = 0) -> None:
        if not labels:
            raise ShapeError("labels is empty: a sampler needs at least one clip")
        classes = [_class_indices(label) for label in labels]
        counts = Counter(index for indices in classes for index in indices)
        weights = np.array([sum(1 / counts[index] for index in indices) for indices in classes])
        self._cumulative = np.cumsum(weights / weights.sum())
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._cumulative)

    def __iter__(self) -> Iterator[int]:
        draws = np.random.default_rng((self._seed, self._epoch)).random(len(self))
        indices = np.searchsorted(self._cumulative, draws, side="right")
        # Rounding may leave the last sum just below 1.
        return iter(np.minimum(indices, len(self) - 1).tolist())


class ClassQueueSampler(Sampler[int]):
    """Rounds over the classes: each shuffles them and draws one random clip of each, until there are enough clips.

    So every class comes equally often up to one draw, at every time of the epoch. The queue is as long as the data and
    drawn anew for each epoch. A clip of several classes stands for each of them; one without any class is never drawn.

    Source: HTS-AT (Chen et al. 2022), training code, after PANNs (Kong et al. 2020).

    Args:
        labels: Class index of each clip, or its 0/1 vector.
        seed: First part of the seed.

    Raises:
        ShapeError: If there are no labels.
        UsageError: If no clip has a class.
    """

    def __init__(self, labels: Sequence[int | Sequence[float]], *, seed: int = 0) -> None:
        if not labels:
            raise ShapeError("labels is empty: a sampler needs at least one clip")
        members: dict[int, list[int]] = {}
        for clip, label in enumerate(labels):
            for index in _class_indices(label):
                members.setdefault(index, []).append(clip)
        members.pop(_NO_CLASS, None)
        if not members:
            raise UsageError("no clip has a class, so there is nothing to balance")
        classes = [members[index] for index in sorted(members)]
        self._members = np.concatenate([np.asarray(clips) for clips in classes])
        self._counts = np.array([len(clips) for clips in classes])
        self._starts = np.cumsum(self._counts) - self._counts
        self._size = len(labels)
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the queue of an epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self._seed, self._epoch))
        rounds = -(-self._size // len(self._counts))
        order = generator.permuted(np.tile(np.arange(len(self._counts)), (rounds, 1)), axis=1).ravel()[: self._size]
        drawn = self._starts[order] + generator.integers(self._counts[order])
        return iter(self._members[drawn].tolist())


class LengthGroupedSampler(Sampler[int]):
    """Random order in which each run of `batch_size` clips has similar lengths, so that little is padding.

    The clips are shuffled, sorted by length within pools of 50 batches, and the batches are shuffled again.

    Args:
        lengths: Frames of each clip.
        batch_size: Clips in a batch; with several processes, in all of their batches of one step together.
        seed: First part of the seed.

    Raises:
        ShapeError: If there are no lengths.
        UsageError: If the batch size is below 1.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, *, seed: int = 0) -> None:
        if not lengths:
            raise ShapeError("lengths is empty: a sampler needs at least one clip")
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}, but must be at least 1")
        self._lengths = np.asarray(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self._seed, self._epoch))
        chosen = generator.permutation(len(self))
        pool = self._batch_size * _BATCHES_PER_POOL
        chosen = np.concatenate([self._by_length(chosen[start : start + pool]) for start in range(0, len(self), pool)])
        full = len(chosen) // self._batch_size
        batches = chosen[: full * self._batch_size].reshape(full, self._batch_size)
        # The incomplete batch stays last: elsewhere it would shift the borders of all batches after it.
        order = np.concatenate([generator.permutation(batches).ravel(), chosen[full * self._batch_size :]])
        return iter(order.tolist())

    def _by_length(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return indices[np.argsort(self._lengths[indices], kind="stable")]


def _class_indices(label: int | Sequence[float]) -> tuple[int, ...]:
    if isinstance(label, int):
        return (label,)
    present = tuple(index for index, value in enumerate(label) if value > 0)
    return present or (_NO_CLASS,)
