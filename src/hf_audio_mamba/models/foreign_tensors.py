"""What the conversions of published weights share: sizes read from tensors, and what became of each of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedConfig

from hf_audio_mamba.errors import CheckpointError


@dataclass(frozen=True)
class ConvertedWeights:
    """Published weights under the names of a model of this package.

    Attributes:
        config: Configuration of the model that they fit.
        tensors: Tensors by the names of the classifier's state.
        dropped: Names in the file whose tensors are not used, and why.
        notes: What was changed in other tensors than their name, a sentence each.
    """

    config: PreTrainedConfig
    tensors: dict[str, Tensor]
    dropped: dict[str, str]
    notes: list[str]


class ForeignTensors:
    """Tensors of a file by name, with errors that name the tensor.

    Args:
        tensors: As `hub.foreign_weights` reads them.
        kind: What the file is expected to be, for messages, for example `"an AuM checkpoint"`.
    """

    def __init__(self, tensors: Mapping[str, Tensor], kind: str) -> None:
        self.tensors = dict(tensors)
        self.kind = kind

    def take(self, name: str, rank: int) -> Tensor:
        """The tensor of a name, which must have so many axes.

        Raises:
            CheckpointError: If it is missing or has another rank.
        """
        if name not in self.tensors:
            raise CheckpointError(f"this is not {self.kind}: it has no tensor {name!r}")
        tensor = self.tensors[name]
        if tensor.ndim != rank:
            raise CheckpointError(f"this is not {self.kind}: {name} has shape {tuple(tensor.shape)}, not {rank} axes")
        return tensor

    def count(self, pattern: str) -> int:
        """How many different numbers stand in the group of a pattern: layers, numbered from 0 without gaps.

        Raises:
            CheckpointError: If there are none, or there is a gap.
        """
        found = {int(match[1]) for name in self.tensors if (match := re.match(pattern, name))}
        if not found or found != set(range(len(found))):
            raise CheckpointError(f"this is not {self.kind}: its layers are numbered {sorted(found)[:20] or 'nowhere'}")
        return len(found)


def mean_over_channels(weight: Tensor) -> Tensor:
    """Turn kernels for three colours `(out, 3, height, width)` into kernels for one spectrogram, by their mean.

    As HTS-AT and AuM do; kernels with one channel stay as they are.

    Raises:
        CheckpointError: If there is another number of channels.
    """
    if weight.ndim != 4 or weight.shape[1] not in (1, 3):
        raise CheckpointError(
            f"the first convolution has shape {tuple(weight.shape)}, not (out, 1 or 3, height, width)"
        )
    return weight.mean(dim=1, keepdim=True)


__all__ = ["ConvertedWeights", "ForeignTensors", "mean_over_channels"]
