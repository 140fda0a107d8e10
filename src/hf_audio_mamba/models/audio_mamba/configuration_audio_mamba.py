"""Configuration of AudioMamba (Lin & Hu)."""

# No `from __future__ import annotations` here: it would turn off the type checks of @strict.
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from hf_audio_mamba.models.audio_config import MAX_HIDDEN_SIZE, MAX_LAYERS, AudioConfig

PATCH_SIZE = 4
"""Side of a patch in cells of the folded spectrogram; both stems have it built in."""
MAX_STAGES = 8
MAX_SPEC_SIZE = 4096


@strict
class AudioMambaConfig(AudioConfig):
    """Sizes and options of an AudioMamba model.

    Lin & Hu 2024, Audio Mamba: Pretrained Audio State Space Model For Audio Tagging. The paper describes the network in
    words and its repository holds no model; what it leaves open is an option here, and the default is what its text,
    its published training configuration and its parameter counts support best. "VMamba" is Liu et al. 2024,
    arXiv:2401.10166; "HTS-AT" is Chen et al. 2022, arXiv:2202.00874, whose data processing the paper adopts.

    Args:
        embed_dim: Width of the first stage; each stage doubles it.
        depths: State-space blocks of each stage. The paper's words fit four stages. (2, 2, 9, 2) are VMamba's own and
            give Tiny its 40 M parameters; HTS-AT's (2, 2, 6, 2), which the published configuration still carries, do so
            with `gated` alone.
        state_size: State values per channel and route, 1 to 64. 1 is VMamba's final choice and the cheapest scan; its
            first version had 16.
        expand: Inner width of the state-space layers as a multiple of their width.
        gated: Whether a gate multiplies the output of the scan. The paper lists the parts of a block without naming
            one, and VMamba had dropped it by then.
        conv_bias: Whether the depth-wise convolutions have a bias. VMamba's first version had it, later ones not.
        mlp_ratio: Inner width of the feed-forward networks as a multiple of their width; 0 for blocks without one, as
            in VMamba's first version (transformer blocks keep theirs, of 4).
        stem: Patch embedding: `"v2"`, two convolutions of 3 x 3, is that of VMamba's blocks with a feed-forward
            network, whose ImageNet weights then fit; `"v1"`, one of 4 x 4, that of HTS-AT and VMamba's first version.
        downsample: Between stages: `"v3"`, a convolution of 3 x 3, for the same ImageNet weights; `"v2"`, one of 2 x 2;
            `"v1"`, patch merging, the paper's literal words.
        head: `"token_semantic"` (HTS-AT, section 3.2): a convolution gives scores for each time step, and their mean is
            the clip's; the published configuration turns it on. `"linear"`: a linear map of the pooled features.
        transformer_block: Block after every state-space block, the paper's "+ Transformer block": `"none"`,
            `"windowed"`, attention within 8 x 8 cells as in HTS-AT, or `"global"`, which the paper's words also allow
            but which compares 4096 tokens with each other in the first stage.
        drop_path_rate: Largest probability of leaving out a block during training; it grows linearly over the blocks.
            The published run is named after 0.2.
        num_mel_bins: Mel bands of each input frame.
        spec_size: Side of the square that the spectrogram is folded into: `spec_size / num_mel_bins` windows of
            `spec_size` frames one above the other, time inside a window fastest, then frequency, then window
            (section 3.1). A multiple of `num_mel_bins`.
        short_clips: What follows a clip that is shorter than `window_frames`: `"pad"`, silence (section 4.1), or
            `"repeat"`, the clip itself as often as it fits, then silence (HTS-AT for clips of 5 s).
        silence_value: Feature value of silence: of `10 log10(max(power, 1e-10))`, -100 dB.
        layer_norm_eps: Added to the variance in layer normalisation.
        initializer_range: Standard deviation of linear layers at initialisation, truncated at two of them.

    `problem_type` is one of `"single_label_classification"`, `"multi_label_classification"` and `"regression"` and
    chooses the loss and, for regression, a sigmoid over the head. A model with one output and no `problem_type` is a
    regression. `id2label` or `label2id` alone is enough: the other is derived.

    Raises:
        StrictDataclassFieldValidationError: A field has the wrong type.
        StrictDataclassClassValidationError: A field is out of its range, or fields contradict each other.
    """

    model_type = "audio_mamba"
    # What evaluation loops should not collect for every clip.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["framewise_logits", "hidden_states"]

    embed_dim: int = 96
    depths: list[int] | tuple[int, ...] = (2, 2, 9, 2)
    state_size: int = 1
    expand: float | int = 2.0
    gated: bool = False
    conv_bias: bool = False
    mlp_ratio: float | int = 4.0
    stem: str = "v2"
    downsample: str = "v3"
    head: str = "token_semantic"
    transformer_block: str = "none"
    drop_path_rate: float | int = 0.2
    num_mel_bins: int = 64
    spec_size: int = 256
    short_clips: str = "pad"
    silence_value: float | int = -100.0
    layer_norm_eps: float = 1e-5
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        self.depths = list(self.depths)  # what a stored configuration gives back
        super().__post_init__(**kwargs)

    @property
    def num_hidden_layers(self) -> int:
        """State-space blocks of all stages."""
        return sum(self.depths)

    @property
    def hidden_size(self) -> int:
        """Width of the last stage."""
        return int(self.embed_dim * 2 ** (len(self.depths) - 1))

    @hidden_size.setter
    def hidden_size(self, value: int) -> None:
        stages = 2 ** (len(self.depths) - 1)
        if value % stages:
            raise ValueError(f"hidden_size must be a multiple of {stages} with {len(self.depths)} stages, not {value}")
        self.embed_dim = value // stages

    @property
    def stage_widths(self) -> list[int]:
        """Channels of each stage."""
        return [self.embed_dim * 2**stage for stage in range(len(self.depths))]

    @property
    def num_folds(self) -> int:
        """Windows of time that lie one above the other in the folded spectrogram."""
        return self.spec_size // self.num_mel_bins

    @property
    def window_frames(self) -> int:
        """Input frames that the model hears at once: 1024 in the paper."""
        return self.spec_size * self.num_folds

    @property
    def frames_per_step(self) -> int:
        """Input frames for each time step of the frame-wise output: 32 in the paper."""
        return int(PATCH_SIZE * 2 ** (len(self.depths) - 1))

    def validate_sizes(self) -> None:
        """Check every size against its range, and that the spectrogram folds into a square that stages halve evenly."""
        if not 1 <= len(self.depths) <= MAX_STAGES or min(self.depths) < 1:
            raise ValueError(f"depths must name 1 to {MAX_STAGES} stages of at least one block, not {self.depths}")
        if sum(self.depths) > MAX_LAYERS:
            raise ValueError(f"depths must add up to at most {MAX_LAYERS} blocks, not {sum(self.depths)}")
        self._check_ranges(
            {
                "embed_dim": (2, MAX_HIDDEN_SIZE),
                "hidden_size": (2, MAX_HIDDEN_SIZE),
                "state_size": (1, 64),
                "expand": (0.5, 16),
                "mlp_ratio": (0, 16),
                "num_mel_bins": (1, MAX_SPEC_SIZE),
                "spec_size": (1, MAX_SPEC_SIZE),
                "silence_value": (-1000, 1000),
            }
        )
        if self.embed_dim % 2 and self.stem == "v2":
            raise ValueError(f"embed_dim must be even for stem 'v2', not {self.embed_dim}")
        self._check_dropout("drop_path_rate")
        self._check_positive("layer_norm_eps", "initializer_range")
        self._check_geometry()

    def _check_geometry(self) -> None:
        if self.spec_size % self.num_mel_bins:
            raise ValueError(
                f"spec_size must be a multiple of num_mel_bins ({self.num_mel_bins}), but is {self.spec_size}"
            )
        if self.num_mel_bins % self.frames_per_step:
            raise ValueError(
                f"num_mel_bins must be a multiple of {self.frames_per_step} for {len(self.depths)} stages, "
                f"but is {self.num_mel_bins}: the last stage would mix windows of time"
            )

    def validate_choices(self) -> None:
        """Check every option that is one of a few words."""
        self._check_choices(
            {
                "stem": ("v1", "v2"),
                "downsample": ("v1", "v2", "v3"),
                "head": ("token_semantic", "linear"),
                "transformer_block": ("none", "windowed", "global"),
                "short_clips": ("pad", "repeat"),
            }
        )


__all__ = ["AudioMambaConfig"]
