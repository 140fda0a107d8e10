"""Configuration of AuM."""

# No `from __future__ import annotations` here: it would turn off the type checks of @strict.
import math
from typing import ClassVar

from huggingface_hub.dataclasses import strict

from hf_audio_mamba.models.audio_config import MAX_HIDDEN_SIZE, MAX_LAYERS, AudioConfig

MAX_FRAMES = 1_000_000


@strict
class AuMConfig(AudioConfig):
    """Sizes and options of an AuM model.

    Audio Mamba: Bidirectional State Space Model for Audio Representation Learning (Erol et al. 2024). The defaults are
    its base size; tiny has a `hidden_size` of 192 and small of 384.

    Args:
        hidden_size: Width of the model.
        num_hidden_layers: Number of blocks; 24 in all sizes of the paper.
        state_size: State values per channel of each mixer, 1 to 64.
        conv_kernel: Width of the mixers' causal convolution in tokens.
        expand: Inner width of each mixer as a multiple of `hidden_size`.
        num_mel_bins: Bands per input frame, a multiple of `patch_size`.
        max_length: Frames that the model hears at once, a multiple of `patch_size`: 1024 for AudioSet, 128 for Speech
            Commands. Shorter clips are padded to it, longer ones are heard in windows.
        patch_size: Bands and frames that make one token.
        bimamba_type: Which directions the mixers have: `"fo-fo"` (forwards alone), `"fo-bi"` (one convolution
            forwards, scans in both directions; v1 of the published code and the paper's base) or `"bi-bi"`
            (convolutions and scans in both directions; v2, that of Vision Mamba and of weights made from it).
        divide_output: Whether `"bi-bi"` halves the sum of its two directions. The others have nothing to divide:
            `"fo-bi"` adds its directions as they are.
        cls_position: Where the class token stands: `"middle"` (the paper's model), `"front"`, `"end"`, `"double"` (one
            at either end, averaged) or `"none"` (the mean over all tokens stands for the clip).
        transpose_token_sequence: Whether tokens run through the bands of a moment before the next moment comes. By
            default they run through time, band of patches by band of patches.
        residual_in_fp32: Whether the residual stream is float32 where the weights are of half precision.
        rms_norm_eps: Added to the mean square in normalisation.
        initializer_range: Standard deviation of class tokens, positions and head at initialisation.
        padding_value: What stands after the end of short clips: the extractor's value of zero padding. The default is
            that of its AudioSet statistics; for others it is `-mean / (2 * std)`.

    `problem_type` is one of `"single_label_classification"`, `"multi_label_classification"` and `"regression"`. A model
    with one output and no `problem_type` is a regression. `id2label` or `label2id` alone is enough.

    Raises:
        StrictDataclassFieldValidationError: A field has the wrong type.
        StrictDataclassClassValidationError: A field is out of its range, or fields contradict each other.
    """

    model_type = "aum"
    attribute_map: ClassVar[dict[str, str]] = {"d_model": "hidden_size", "num_layers": "num_hidden_layers"}

    hidden_size: int = 768
    num_hidden_layers: int = 24
    state_size: int = 16
    conv_kernel: int = 4
    expand: int = 2
    num_mel_bins: int = 128
    max_length: int = 1024
    patch_size: int = 16
    bimamba_type: str = "fo-bi"
    divide_output: bool = True
    cls_position: str = "middle"
    transpose_token_sequence: bool = False
    residual_in_fp32: bool = True
    rms_norm_eps: float = 1e-5
    initializer_range: float | int = 0.02
    # The mean and twice the standard deviation of AudioSet's filter bank, as in the extractor.
    padding_value: float | int = 4.2677393 / (2 * 4.5689974)

    @property
    def intermediate_size(self) -> int:
        """Inner width of each mixer."""
        return self.expand * self.hidden_size

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Patches over the bands and over time."""
        return self.num_mel_bins // self.patch_size, self.max_length // self.patch_size

    @property
    def num_class_tokens(self) -> int:
        """Class tokens in the sequence: 0, 1 or 2."""
        return {"none": 0, "double": 2}.get(self.cls_position, 1)

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
                "max_length": (1, MAX_FRAMES),
                "patch_size": (1, 1024),
                "padding_value": (-1e6, 1e6),
            }
        )
        self._check_positive("rms_norm_eps", "initializer_range")
        for name in ("num_mel_bins", "max_length"):
            size = getattr(self, name)
            # Patches must cover every band and frame: what is left over would never be heard.
            if size % self.patch_size:
                above = math.ceil(size / self.patch_size) * self.patch_size
                fitting = above if size < self.patch_size else f"{above - self.patch_size} or {above}"
                raise ValueError(
                    f"{name} must be a multiple of patch_size ({self.patch_size}), not {size}; take {fitting}"
                )

    def validate_choices(self) -> None:
        """Check every option that is one of a few words."""
        self._check_choices(
            {
                "bimamba_type": ("fo-fo", "fo-bi", "bi-bi"),
                "cls_position": ("middle", "front", "end", "double", "none"),
            }
        )


__all__ = ["AuMConfig"]
