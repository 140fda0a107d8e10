"""Losses of single-label problems that the models themselves do not have."""

from torch import Tensor
from torch.nn import functional as F


def single_label_loss(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0, binary: bool = False) -> Tensor:
    """Mean loss of a batch with one label a clip, hard or soft.

    Args:
        logits: `(batch, labels)`.
        labels: Class indices `(batch,)`, or weights of classes `(batch, labels)`.
        smoothing: Part of the weight that is spread over all classes (cross-entropy only), in [0, 1].
        binary: Binary cross-entropy, each class by itself, as for several labels; else cross-entropy.
    """
    if not binary:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    targets = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[-1])
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))
