"""Configuration of HTS-AT."""

# No `from __future__ import annotations` here: it would turn off the type checks of @strict.
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from hf_audio_mamba.models.audio_config import MAX_HIDDEN_SIZE, MAX_LAYERS, AudioConfig

PATCH_SIZE = 4
"""Side of a patch in cells of the folded spectrogram."""
MAX_STAGES = 8
MAX_SPEC_SIZE = 4096


@strict
class HTSATConfig(AudioConfig):
    """Sizes and options of an HTS-AT model, whose network is Transformers' `ClapAudioModel`.

    Chen et al. 2022, HTS-AT: A Hierarchical Token-Semantic Audio Transformer, arXiv:2202.00874. The defaults are the
    published 31 M configuration; that figure counts 1.08 M frozen values of its spectrogram layer, which is a feature
    extractor here, and 0.28 M of a layer that nothing uses.

    Args:
        embed_dim: Width of the first stage; each stage doubles it.
        depths: Swin blocks of each stage.
        num_attention_heads: Attention heads of the blocks of each stage; they divide its width.
        window_size: Side of the windows of attention, in tokens.
        mlp_ratio: Inner width of the feed-forward networks as a multiple of their width.
        hidden_dropout: Dropout probability after the projections, in [0, 1).
        attention_dropout: Dropout probability of attention weights, in [0, 1).
        drop_path_rate: Largest probability of leaving out a block during training; it grows linearly over the blocks.
        num_mel_bins: Mel bands of each input frame.
        spec_size: Side of the square that the spectrogram is folded into; a multiple of `num_mel_bins`.
        silence_value: Feature value of the silence that follows a clip shorter than `window_frames`: -100 dB, that of
            `10 log10(max(power, 1e-10))`. The feature extractor repeats short clips where it is told to.
        layer_norm_eps: Added to the variance in layer normalisation.
        initializer_range: Standard deviation of the head at initialisation.

    `problem_type` is one of `"single_label_classification"`, `"multi_label_classification"` and `"regression"` and
    chooses the loss and, for regression, a sigmoid over the head. A model with one output and no `problem_type` is a
    regression. `id2label` or `label2id` alone is enough: the other is derived.

    Raises:
        StrictDataclassFieldValidationError: A field has the wrong type.
        StrictDataclassClassValidationError: A field is out of its range, or fields contradict each other.
    """

    model_type = "htsat"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["hidden_states"]

    embed_dim: int = 96
    depths: list[int] | tuple[int, ...] = (2, 2, 6, 2)
    num_attention_heads: list[int] | tuple[int, ...] = (4, 8, 16, 32)
    window_size: int = 8
    mlp_ratio: float | int = 4.0
    hidden_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    drop_path_rate: float | int = 0.1
    num_mel_bins: int = 64
    spec_size: int = 256
    silence_value: float | int = -100.0
    layer_norm_eps: float = 1e-5
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        # What a stored configuration gives back.
        self.depths, self.num_attention_heads = list(self.depths), list(self.num_attention_heads)
        super().__post_init__(**kwargs)

    @property
    def num_hidden_layers(self) -> int:
        """Blocks of all stages."""
        return sum(self.depths)

    @property
    def hidden_size(self) -> int:
        """Width of the last stage."""
        return int(self.embed_dim * 2 ** (len(self.depths) - 1))

    @hidden_size.setter
    def hidden_size(self, value: int) -> None:
        factor = 2 ** (len(self.depths) - 1)
        if value % factor:
            raise ValueError(f"hidden_size must be a multiple of {factor} with {len(self.depths)} stages, not {value}")
        self.embed_dim = value // factor

    @property
    def window_frames(self) -> int:
        """Input frames that the model hears at once: 1024 in the paper."""
        return self.spec_size * (self.spec_size // self.num_mel_bins)

    @property
    def frames_per_step(self) -> int:
        """Input frames for each time step of the last stage: 32 in the paper."""
        return int(PATCH_SIZE * 2 ** (len(self.depths) - 1))

    def validate_sizes(self) -> None:
        """Check every size against its range, and that each stage has heads that divide its width."""
        if not 1 <= len(self.depths) <= MAX_STAGES or min(self.depths) < 1 or sum(self.depths) > MAX_LAYERS:
            raise ValueError(
                f"depths must name 1 to {MAX_STAGES} stages of at least one block and {MAX_LAYERS} blocks in all, "
                f"not {self.depths}"
            )
        self._check_ranges(
            {
                "embed_dim": (1, MAX_HIDDEN_SIZE),
                "hidden_size": (1, MAX_HIDDEN_SIZE),
                "window_size": (2, 64),
                "mlp_ratio": (0.5, 16),
                "num_mel_bins": (1, MAX_SPEC_SIZE),
                "spec_size": (1, MAX_SPEC_SIZE),
                "silence_value": (-1000, 1000),
            }
        )
        self._check_dropout("hidden_dropout", "attention_dropout", "drop_path_rate")
        self._check_positive("layer_norm_eps", "initializer_range")
        widths = [self.embed_dim * 2**stage for stage in range(len(self.depths))]
        heads = self.num_attention_heads
        if len(heads) != len(widths) or any(h < 1 or width % h for h, width in zip(heads, widths, strict=True)):
            raise ValueError(f"num_attention_heads must divide the width of each stage, {widths}, but is {heads}")

    def validate_geometry(self) -> None:
        """Check that the spectrogram folds into a square that every stage halves evenly."""
        if self.spec_size % self.num_mel_bins:
            raise ValueError(
                f"spec_size must be a multiple of num_mel_bins ({self.num_mel_bins}), but is {self.spec_size}"
            )
        if self.num_mel_bins % self.frames_per_step:
            raise ValueError(
                f"num_mel_bins must be a multiple of {self.frames_per_step} for {len(self.depths)} stages, "
                f"but is {self.num_mel_bins}: the last stage would mix windows of time"
            )


__all__ = ["HTSATConfig"]
