"""AudioMamba: VMamba's state-space stages over a spectrogram that HTS-AT's rule folds into a square.

Lin & Hu 2024, Audio Mamba: Pretrained Audio State Space Model For Audio Tagging, section 3. Maps are channels-last,
`(batch, height, width, channels)`, and tensors have the names of VMamba's checkpoints.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from hf_audio_mamba.layers import (
    SS2D,
    ClipWindows,
    DropPath,
    FeedForward,
    MapTransformer,
    WindowSize,
    apply_linear,
    downsampling,
    patch_embedding,
    place_windows,
)
from hf_audio_mamba.models.audio_mamba.configuration_audio_mamba import AudioMambaConfig
from hf_audio_mamba.models.input_checks import check_frames


@dataclass
class AudioMambaModelOutput(BaseModelOutputWithPooling):
    """Features of clips and of their windows.

    Attributes:
        window_features: `(windows, time steps of a window, frequency rows, hidden_size)`, the windows of one clip after
            those of another: what the heads score.
    """

    window_features: torch.Tensor | None = None


@dataclass
class AudioMambaClassifierOutput(SequenceClassifierOutput):
    """Scores of clips and of their time steps.

    Attributes:
        framewise_logits: `(batch, time steps, num_labels)`; a step is `config.frames_per_step` input frames. For a clip
            within one window their mean over the steps is `logits`. Steps after the end of a clip that is shorter than
            another one of the batch hold the lowest finite value. For regression, values in (0, 1).
    """

    framewise_logits: torch.Tensor | None = None


class AudioMambaBlock(GradientCheckpointingLayer):
    """State-space layer and feed-forward network, each after a norm and beside a skip (section 3.2, figure 2 d).

    With `config.transformer_block`, a transformer block follows (section 4.3).
    """

    def __init__(self, config: AudioMambaConfig, width: int, drop_path: float) -> None:
        super().__init__()
        eps = config.layer_norm_eps
        self.norm = nn.LayerNorm(width, eps=eps)
        self.op = SS2D(
            width,
            state_size=config.state_size,
            expand=config.expand,
            gated=config.gated,
            conv_bias=config.conv_bias,
            layer_norm_eps=eps,
        )
        self.has_mlp = config.mlp_ratio > 0
        if self.has_mlp:
            self.norm2 = nn.LayerNorm(width, eps=eps)
            self.mlp = FeedForward(width, config.mlp_ratio)
        self.drop_path = DropPath(drop_path)
        self.transformer: nn.Module = nn.Identity()
        if config.transformer_block != "none":
            windowed = config.transformer_block == "windowed"
            sizes = {"mlp_ratio": config.mlp_ratio or 4.0, "drop_path": drop_path, "layer_norm_eps": eps}
            self.transformer = MapTransformer(width, windowed=windowed, **sizes)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(batch, height, width, channels)` to the same shape."""
        hidden_states = self.drop_path.residual(hidden_states, self.op, self.norm)
        if self.has_mlp:
            hidden_states = self.drop_path.residual(hidden_states, self.mlp, self.norm2)
        mapped: torch.Tensor = self.transformer(hidden_states)
        return mapped


class AudioMambaStage(nn.Module):
    """Blocks at one resolution, and the way down to the next one."""

    def __init__(self, config: AudioMambaConfig, width: int, drop_paths: list[float], *, is_last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([AudioMambaBlock(config, width, rate) for rate in drop_paths])
        self.downsample = nn.Identity() if is_last else downsampling(config.downsample, width, config.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(batch, height, width, channels)` to the next stage's input, or to the last stage's output."""
        for block in self.blocks:
            hidden_states = block(hidden_states)
        mapped: torch.Tensor = self.downsample(hidden_states)
        return mapped


class AudioMambaPreTrainedModel(PreTrainedModel):
    """Weight initialisation and the switches that Transformers reads."""

    config: AudioMambaConfig
    base_model_prefix = "audio_mamba"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["AudioMambaBlock"]
    _can_record_outputs: ClassVar[dict[str, Any]] = {"hidden_states": AudioMambaBlock}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            std = self.config.initializer_range
            init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        elif isinstance(module, nn.Conv2d):
            # PyTorch's own rule, which VMamba leaves in place.
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        elif isinstance(module, SS2D):
            module.init_weights()


class AudioMambaModel(AudioMambaPreTrainedModel):
    """AudioMamba without a head: feature maps over time and one embedding of the clip."""

    def __init__(self, config: AudioMambaConfig) -> None:
        super().__init__(config)
        self.bn0 = nn.BatchNorm1d(config.num_mel_bins)
        self.patch_embed = patch_embedding(config.stem, config.embed_dim, config.layer_norm_eps)
        rates = torch.linspace(0, config.drop_path_rate, config.num_hidden_layers, device="cpu").tolist()
        self.layers = nn.ModuleList()
        for stage, (width, depth) in enumerate(zip(config.stage_widths, config.depths, strict=True)):
            first = sum(config.depths[:stage])
            is_last = stage == len(config.depths) - 1
            self.layers.append(AudioMambaStage(config, width, rates[first : first + depth], is_last=is_last))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding."""
        return self.patch_embed

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> AudioMambaModelOutput:
        """Encode log-mel frames.

        Args:
            input_values: `(batch, frames, bands)` in dB from `AudioMambaFeatureExtractor`, of any length. A clip that
                is shorter than `config.window_frames` is filled up; a longer one is cut into windows that are evenly
                placed and leave no frame out.
            attention_mask: `(batch, frames)`, 1 at frames and 0 at padding, which may stand on either side.
            kwargs: `output_hidden_states` and `return_dict`, as everywhere in Transformers.

        Returns:
            `last_hidden_state (batch, time steps, frequency rows, hidden_size)`, averaged where windows overlap and 0
            after the end of a clip that is shorter than another one of the batch; `pooler_output (batch, hidden_size)`,
            the mean over rows, steps and windows; and `window_features`. The hidden states of each block are maps
            `(windows, height, width, channels)` of the folded spectrogram.

        Raises:
            ShapeError: `input_values` or `attention_mask` does not have the shape above.
        """
        windows = self.windows(input_values, attention_mask)
        frames = windows.cut(
            input_values.to(self.bn0.weight.dtype),
            silence=self.config.silence_value,
            repeat=self.config.short_clips == "repeat",
        )
        frames = self.bn0(frames.flatten(0, 1)).view(frames.shape)
        features = self.unfold(self.encode(self.fold(frames)))
        merged = windows.merge(features.flatten(2), outside=0.0)
        return AudioMambaModelOutput(
            last_hidden_state=merged.view(*merged.shape[:2], *features.shape[2:]),
            pooler_output=windows.average(features.mean(dim=(1, 2))),
            window_features=features,
        )

    def windows(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> ClipWindows:
        """Place the windows of a batch; arguments and errors are those of `forward`."""
        check_frames(input_values, attention_mask, self.config.num_mel_bins)
        size = WindowSize(self.config.window_frames, self.config.frames_per_step)
        batch, frames, _ = input_values.shape
        return place_windows(batch, frames, size, input_values.device, attention_mask)

    def fold(self, frames: torch.Tensor) -> torch.Tensor:
        """Fold spectrograms into squares, windows of time one above the other (section 3.1).

        Args:
            frames: `(batch, window_frames, bands)`.

        Returns:
            `(batch, spec_size, spec_size)`; row `r`, column `c` holds band `r mod bands` of frame
            `(r div bands) * spec_size + c`.
        """
        batch, _, bands = frames.shape
        size = self.config.spec_size
        return frames.view(batch, -1, size, bands).transpose(2, 3).reshape(batch, size, size)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Run the stages.

        Args:
            images: `(batch, height, width)`, sides multiples of `config.frames_per_step`; they need not be equal.

        Returns:
            `(batch, height / frames_per_step, width / frames_per_step, hidden_size)`.
        """
        hidden_states = self.patch_embed(images[..., None])
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        maps: torch.Tensor = self.norm(hidden_states)
        return maps

    def unfold(self, maps: torch.Tensor) -> torch.Tensor:
        """Undo `fold` for maps: put windows of time one after the other again.

        Args:
            maps: `(batch, height, width, channels)` of folded spectrograms.

        Returns:
            `(batch, time steps, frequency rows, channels)`.
        """
        batch, height, width, channels = maps.shape
        folds = maps.view(batch, self.config.num_folds, -1, width, channels)
        return folds.transpose(2, 3).reshape(batch, -1, height // self.config.num_folds, channels)


class TokenSemanticHead(nn.Conv2d):
    """Scores of each time step by a convolution over all frequency rows and three steps (HTS-AT, section 3.2)."""

    def __init__(self, hidden_size: int, num_labels: int, num_rows: int) -> None:
        super().__init__(hidden_size, num_labels, (num_rows, 3), padding=(0, 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map `(batch, steps, rows, hidden_size)` to `(batch, steps, labels)`."""
        # One product over all that a step sees: torch's convolution is slow on so low a map of so many channels.
        seen = F.pad(features, (0, 0, 0, 0, 1, 1)).unfold(1, 3, 1)
        return apply_linear(seen.transpose(2, 3).flatten(2), self.weight.flatten(1), self.bias)


class LinearHead(nn.Linear):
    """Scores of each time step by a linear map; their mean is the linear map of the pooled features."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map `(batch, steps, rows, hidden_size)` to `(batch, steps, labels)`."""
        return super().forward(features.mean(dim=2))


class AudioMambaForAudioClassification(AudioMambaPreTrainedModel):
    """AudioMamba with a head that scores clips and their time steps, by `config.head` and `config.problem_type`."""

    # The loss does not take num_items_in_batch; saying so keeps gradients right under gradient accumulation.
    accepts_loss_kwargs = False
    # Tells the pipeline that `framewise_logits` are there.
    scores_time_steps = True

    def __init__(self, config: AudioMambaConfig) -> None:
        super().__init__(config)
        if config.problem_type is None and config.num_labels == 1:
            config.problem_type = "regression"
        self.num_labels = config.num_labels
        self.audio_mamba = AudioMambaModel(config)
        self.classifier: nn.Module
        if config.head == "token_semantic":
            rows = config.num_mel_bins // config.frames_per_step
            self.classifier = TokenSemanticHead(config.hidden_size, config.num_labels, rows)
        else:
            self.classifier = LinearHead(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> AudioMambaClassifierOutput:
        """Classify clips, or predict values for them.

        Args:
            input_values: `(batch, frames, bands)` from `AudioMambaFeatureExtractor`, of any length.
            attention_mask: `(batch, frames)`, 1 at frames and 0 at padding.
            labels: `(batch,)` class indices (single label), `(batch, num_labels)` of 0 and 1 (multi label), or
                `(batch,)` or `(batch, num_labels)` values in [0, 1] (regression).
            kwargs: `output_hidden_states` and `return_dict`, as everywhere in Transformers.

        Returns:
            `logits (batch, num_labels)`, the mean over the windows of a clip, for regression the predicted values in
            (0, 1); `framewise_logits (batch, time steps, num_labels)`, averaged where windows overlap; and with labels
            the `loss` (cross-entropy, binary cross-entropy or mean squared error).

        Raises:
            ShapeError: `input_values` or `attention_mask` does not have the shape above.
        """
        outputs = self.audio_mamba(input_values, attention_mask=attention_mask, **kwargs)
        windows = self.audio_mamba.windows(input_values, attention_mask)
        scores = self.classifier(outputs.window_features)
        logits = windows.average(scores.mean(dim=1))
        framewise_logits = windows.merge(scores, outside=torch.finfo(scores.dtype).min)
        if self.config.problem_type == "regression":
            logits, framewise_logits = logits.sigmoid(), framewise_logits.sigmoid()
        loss = None
        if labels is not None:
            if self.config.problem_type in ("multi_label_classification", "regression"):
                labels = labels.to(logits.dtype)
            loss = self.loss_function(labels, logits, self.config)
        return AudioMambaClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, framewise_logits=framewise_logits
        )


__all__ = [
    "AudioMambaClassifierOutput",
    "AudioMambaForAudioClassification",
    "AudioMambaModel",
    "AudioMambaModelOutput",
    "AudioMambaPreTrainedModel",
]
