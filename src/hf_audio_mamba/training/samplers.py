"""Which order of training clips a run has asked for."""

from collections.abc import Sequence
from typing import Any

from hf_audio_mamba.data import ClassBalancedSampler, ClassQueueSampler, LengthGroupedSampler, ShuffledSampler
from hf_audio_mamba.errors import UsageError

EpochSampler = ShuffledSampler | ClassBalancedSampler | ClassQueueSampler | LengthGroupedSampler


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
        strategy: `random`, `sequential`, `group_by_length`, `class_balanced` or `class_queue`.
        size: Number of clips.
        seed: Of the order.
        batch_size: Clips of one step over all processes, for `group_by_length`.
        lengths: Frames of each clip, for `group_by_length`.
        labels: Label of each clip, for `class_balanced` and `class_queue`.

    Raises:
        UsageError: If the strategy is unknown or lacks what it needs.
    """
    if strategy in ("random", "sequential"):
        return ShuffledSampler(size, seed=seed, shuffle=strategy == "random")
    if strategy == "group_by_length" and lengths is not None:
        return LengthGroupedSampler(lengths, batch_size, seed=seed)
    if strategy == "class_balanced" and labels is not None:
        return ClassBalancedSampler(labels, seed=seed)
    if strategy == "class_queue" and labels is not None:
        return ClassQueueSampler(labels, seed=seed)
    raise UsageError(f"--train_sampling_strategy {strategy} cannot serve this training data; use random.")
