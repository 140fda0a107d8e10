"""Configuration of MoMamba."""

# No `from __future__ import annotations` here: it would turn off the type checks of @strict.
from collections.abc import Mapping
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
# Far above any model of this kind; a larger number in a file is damage or malice, refused before memory is asked for.
MAX_HIDDEN_SIZE = 65_536
MAX_LAYERS = 1_024
MAX_LABELS = 1_000_000


def _inverse(label2id: Mapping[str, int]) -> dict[int, str]:
    return {int(index): name for name, index in label2id.items()}


@strict
class MoMambaConfig(PreTrainedConfig):
    """Sizes and options of a MoMamba model.

    MoMamba: A Lightweight Music Oriented Mamba-Based Model for Music Information Retrieval Tasks, section 3.2; the
    options are the rows of its Tables 1 and 4.

    Args:
        hidden_size: Width d of the model; the paper searches 256, 512 and 1024.
        num_hidden_layers: Number N of blocks; the paper searches 3 to 6.
        state_size: State values per channel of each mixer, 1 to 64.
        conv_kernel: Width of the mixers' causal convolution in frames, at least 1.
        expand: Inner width of each mixer as a multiple of `hidden_size`.
        num_mel_bins: Bands per input frame: the mel bands, plus 12 where chroma is appended (128 or 140 in the paper).
        use_cls_token: Whether a learned class token joins the frames. Without it, `pooling` decides.
        cls_position: Where the class token stands: `"end"` (the paper's model), `"middle"` (after the first half of the
            frames) or `"front"`. It keeps its place in both directions.
        pooling: What stands for the clip where there is no class token: `"last"` (the last frame) or `"mean"`.
        position_encoding: `"none"` (the paper's model), `"learned"` or `"sinusoidal"`, added after the class token has
            been placed.
        max_position_embeddings: Rows of the learned position table: the longest input in frames, plus 1 for the token.
            Used by `position_encoding="learned"` alone.
        bidirectional: Whether each block has a second mixer over the reversed frames.
        residual: Whether each block's input is added to its output before normalisation. The paper's text has no
            residual path, and its literal preset (`hub_configs/momamba/paper`) sets this to False; the README shows
            the run that decided the default.
        hidden_dropout: Dropout probability after each block and inside the regression head, in [0, 1).
        regression_hidden_size: Width of the hidden layer of the regression head; None means half of `hidden_size`.
        layer_norm_eps: Added to the variance in layer normalisation.
        initializer_range: Standard deviation of the class token and the learned positions at initialisation.

    `problem_type` is one of `"single_label_classification"`, `"multi_label_classification"` and `"regression"` and
    chooses the head. A model with one output and no `problem_type` is a regression. `id2label` or `label2id` alone is
    enough: the other is derived.

    Raises:
        StrictDataclassFieldValidationError: A field has the wrong type.
        StrictDataclassClassValidationError: A field is out of its range, or fields contradict each other.
    """

    model_type = "momamba"
    attribute_map: ClassVar[dict[str, str]] = {"d_model": "hidden_size", "num_layers": "num_hidden_layers"}

    hidden_size: int = 512
    num_hidden_layers: int = 4
    state_size: int = 16
    conv_kernel: int = 4
    expand: int = 2
    num_mel_bins: int = 128
    use_cls_token: bool = True
    cls_position: str = "end"
    pooling: str = "last"
    position_encoding: str = "none"
    max_position_embeddings: int = 3002
    bidirectional: bool = True
    residual: bool = True
    hidden_dropout: float | int = 0.1
    regression_hidden_size: int | None = None
    layer_norm_eps: float = 1e-5
    initializer_range: float | int = 0.02
    # Fields of the base class, which does not check their types.
    id2label: dict[int, str] | dict[str, str] | None = None
    label2id: dict[str, int] | None = None
    problem_type: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        num_labels = kwargs.get("num_labels")
        if num_labels is not None and not 1 <= num_labels <= MAX_LABELS:
            # Transformers would build a list of that many names before anything else could refuse it.
            raise ValueError(f"num_labels must be from 1 to {MAX_LABELS}, not {num_labels}")
        if self.id2label is None and self.label2id is not None:
            self.id2label = _inverse(self.label2id)
        super().__post_init__(**kwargs)
        if self.id2label is not None and self.label2id is None:
            self.label2id = {name: int(index) for index, name in self.id2label.items()}
        if self.problem_type is None and self.num_labels == 1:
            self.problem_type = "regression"
        if not self.residual and self.num_hidden_layers > 4:
            logger.warning_once(
                f"MoMamba with residual=False and {self.num_hidden_layers} blocks may not start to learn: "
                "set residual=True or use at most 4 blocks."
            )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration from stored fields and changes to them; one changed label map replaces both."""
        if kwargs.get("id2label") is not None and kwargs.get("label2id") is None:
            kwargs["id2label"] = {int(index): name for index, name in kwargs["id2label"].items()}
            kwargs["label2id"] = {name: index for index, name in kwargs["id2label"].items()}
        elif kwargs.get("label2id") is not None and kwargs.get("id2label") is None:
            kwargs["id2label"] = _inverse(kwargs["label2id"])
        return super().from_dict(config_dict, **kwargs)

    @property
    def intermediate_size(self) -> int:
        """Inner width of each mixer."""
        return self.expand * self.hidden_size

    def validate_sizes(self) -> None:
        """Check every size against its range."""
        ranges = {
            "hidden_size": (1, MAX_HIDDEN_SIZE),
            "num_hidden_layers": (1, MAX_LAYERS),
            "state_size": (1, 64),
            "conv_kernel": (1, 64),
            "expand": (1, 16),
            "num_mel_bins": (1, MAX_HIDDEN_SIZE),
            "max_position_embeddings": (2, 10_000_000),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be from {low} to {high}, not {value}")
        if self.regression_hidden_size is not None and not 1 <= self.regression_hidden_size <= MAX_HIDDEN_SIZE:
            raise ValueError(f"regression_hidden_size must be from 1 to {MAX_HIDDEN_SIZE}")
        if not 0 <= self.hidden_dropout < 1:
            raise ValueError(f"hidden_dropout is a probability in [0, 1), not {self.hidden_dropout}")
        for name in ("layer_norm_eps", "initializer_range"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")

    def validate_choices(self) -> None:
        """Check every option that is one of a few words."""
        choices = {
            "cls_position": ("end", "middle", "front"),
            "pooling": ("last", "mean"),
            "position_encoding": ("none", "learned", "sinusoidal"),
            "problem_type": (*PROBLEM_TYPES, None),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")

    def validate_labels(self) -> None:
        """Check that the two label maps cover 0 to num_labels - 1 and agree."""
        if self.id2label is None:
            return
        if sorted(self.id2label) != list(range(len(self.id2label))):
            raise ValueError(f"id2label must have the keys 0 to {len(self.id2label) - 1} without gaps")
        if len(set(self.id2label.values())) != len(self.id2label):
            raise ValueError("id2label gives two indices the same name; every label needs a name of its own")
        if self.label2id is not None and _inverse(self.label2id) != self.id2label:
            raise ValueError("label2id and id2label do not agree; give one of them alone")


__all__ = ["MoMambaConfig"]
