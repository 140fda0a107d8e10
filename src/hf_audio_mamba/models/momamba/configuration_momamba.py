"""Configuration of MoMamba."""

# No `from __future__ import annotations` here: it would turn off the type checks of @strict.
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers.utils import logging

from hf_audio_mamba.models.audio_config import MAX_HIDDEN_SIZE, MAX_LAYERS, AudioConfig

logger = logging.get_logger(__name__)


@strict
class MoMambaConfig(AudioConfig):
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

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if not self.residual and self.num_hidden_layers > 4:
            logger.warning_once(
                f"MoMamba with residual=False and {self.num_hidden_layers} blocks may not start to learn: "
                "set residual=True or use at most 4 blocks."
            )

    @property
    def intermediate_size(self) -> int:
        """Inner width of each mixer."""
        return self.expand * self.hidden_size

    def validate_sizes(self) -> None:
        """Check every size against its range."""
        self._check_ranges(
            {
                "hidden_size": (1, MAX_HIDDEN_SIZE),
                "num_hidden_layers": (1, MAX_LAYERS),
                "state_size": (1, 64),
                "conv_kernel": (1, 64),
                "expand": (1, 16),
                "num_mel_bins": (1, MAX_HIDDEN_SIZE),
                "max_position_embeddings": (2, 10_000_000),
            }
        )
        if self.regression_hidden_size is not None:
            self._check_ranges({"regression_hidden_size": (1, MAX_HIDDEN_SIZE)})
        self._check_dropout("hidden_dropout")
        self._check_positive("layer_norm_eps", "initializer_range")

    def validate_choices(self) -> None:
        """Check every option that is one of a few words."""
        self._check_choices(
            {
                "cls_position": ("end", "middle", "front"),
                "pooling": ("last", "mean"),
                "position_encoding": ("none", "learned", "sinusoidal"),
            }
        )


__all__ = ["MoMambaConfig"]
