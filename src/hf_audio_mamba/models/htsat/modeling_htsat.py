"""HTS-AT: Transformers' `ClapAudioModel`, which is its network, with its token-semantic head.

Chen et al. 2022, HTS-AT: A Hierarchical Token-Semantic Audio Transformer, arXiv:2202.00874. A peer for comparisons: the
network itself has no line of code here.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import ClapAudioConfig, ClapAudioModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.models.clap.modeling_clap import ClapAudioLayer
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from hf_audio_mamba.layers import ClipWindows, WindowSize, place_windows
from hf_audio_mamba.models.htsat.configuration_htsat import PATCH_SIZE, HTSATConfig
from hf_audio_mamba.models.input_checks import check_frames


@dataclass
class HTSATModelOutput(BaseModelOutputWithPooling):
    """Features of clips and of their windows.

    Attributes:
        window_features: `(windows, hidden_size, frequency rows, time steps of a window)`, the windows of one clip after
            those of another: what the head scores.
    """

    window_features: torch.Tensor | None = None


def clap_config(config: HTSATConfig) -> ClapAudioConfig:
    """The same network as Transformers describes it."""
    return ClapAudioConfig(
        patch_embeds_hidden_size=config.embed_dim,
        hidden_size=config.hidden_size,
        depths=list(config.depths),
        num_hidden_layers=len(config.depths),
        num_attention_heads=list(config.num_attention_heads),
        window_size=config.window_size,
        mlp_ratio=float(config.mlp_ratio),
        hidden_dropout_prob=config.hidden_dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        drop_path_rate=config.drop_path_rate,
        num_mel_bins=config.num_mel_bins,
        spec_size=config.spec_size,
        patch_size=PATCH_SIZE,
        patch_stride=[PATCH_SIZE, PATCH_SIZE],
        layer_norm_eps=config.layer_norm_eps,
    )


class HTSATEncoder(ClapAudioModel):
    """`ClapAudioModel` that tells the hidden states of its blocks."""

    _can_record_outputs: ClassVar[dict[str, Any]] = {"hidden_states": ClapAudioLayer}


class HTSATPreTrainedModel(PreTrainedModel):
    """The switches that Transformers reads; the network initialises itself."""

    config: HTSATConfig
    base_model_prefix = "htsat"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["ClapAudioStage"]
    _can_record_outputs: ClassVar[dict[str, Any]] = {"hidden_states": ClapAudioLayer}


class HTSATModel(HTSATPreTrainedModel):
    """HTS-AT without a head: feature maps over time and one embedding of the clip.

    Its tensors have the names of the audio half of CLAP's checkpoints, which therefore load into it.
    """

    def __init__(self, config: HTSATConfig) -> None:
        super().__init__(config)
        self.audio_model = HTSATEncoder(clap_config(config))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding."""
        return self.audio_model.get_input_embeddings()  # type: ignore[no-any-return]

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> HTSATModelOutput:
        """Encode log-mel frames.

        Args:
            input_values: `(batch, frames, bands)` in dB from `AudioMambaFeatureExtractor`, of any length. A clip that
                is shorter than `config.window_frames` is filled up; a longer one is cut into windows that are evenly
                placed and leave no frame out.
            attention_mask: `(batch, frames)`, 1 at frames and 0 at padding, which may stand on either side.
            kwargs: `output_hidden_states` and `return_dict`, as everywhere in Transformers.

        Returns:
            `last_hidden_state (batch, time steps, frequency rows * hidden_size)`, averaged where windows overlap and 0
            after the end of a clip that is shorter than another one of the batch; `pooler_output (batch, hidden_size)`,
            the mean over rows, steps and windows; and `window_features`. The hidden states of each block are
            `(windows, tokens, channels)`.

        Raises:
            ShapeError: `input_values` or `attention_mask` does not have the shape above.
        """
        windows = self.windows(input_values, attention_mask)
        input_values = input_values.to(self.audio_model.dtype)
        frames = windows.cut(input_values, silence=self.config.silence_value, repeat=False)
        outputs = self.audio_model(input_features=frames[:, None], output_hidden_states=False, return_dict=True)
        features = outputs.last_hidden_state
        return HTSATModelOutput(
            last_hidden_state=windows.merge(features.permute(0, 3, 2, 1).flatten(2), outside=0.0),
            pooler_output=windows.average(outputs.pooler_output),
            window_features=features,
        )

    def windows(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> ClipWindows:
        """Place the windows of a batch; arguments and errors are those of `forward`."""
        check_frames(input_values, attention_mask, self.config.num_mel_bins)
        batch, frames, _ = input_values.shape
        size = WindowSize(self.config.window_frames, self.config.frames_per_step)
        return place_windows(batch, frames, size, input_values.device, attention_mask)


class HTSATForAudioClassification(HTSATPreTrainedModel):
    """HTS-AT with its token-semantic head (section 2.2): scores of time steps, whose mean is the clip's."""

    # The loss does not take num_items_in_batch; saying so keeps gradients right under gradient accumulation.
    accepts_loss_kwargs = False

    def __init__(self, config: HTSATConfig) -> None:
        super().__init__(config)
        if config.problem_type is None and config.num_labels == 1:
            config.problem_type = "regression"
        self.num_labels = config.num_labels
        self.htsat = HTSATModel(config)
        rows = config.num_mel_bins // config.frames_per_step
        self.classifier = nn.Conv2d(config.hidden_size, config.num_labels, (rows, 3), padding=(0, 1))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Classify clips, or predict values for them.

        Args:
            input_values: `(batch, frames, bands)` from `AudioMambaFeatureExtractor`, of any length.
            attention_mask: `(batch, frames)`, 1 at frames and 0 at padding.
            labels: `(batch,)` class indices (single label), `(batch, num_labels)` of 0 and 1 (multi label), or
                `(batch,)` or `(batch, num_labels)` values in [0, 1] (regression).
            kwargs: `output_hidden_states` and `return_dict`, as everywhere in Transformers.

        Returns:
            `logits (batch, num_labels)`, the mean over time steps and windows of a clip, for regression the predicted
            values in (0, 1), and with labels the `loss` (cross-entropy, binary cross-entropy or mean squared error).

        Raises:
            ShapeError: `input_values` or `attention_mask` does not have the shape above.
        """
        outputs = self.htsat(input_values, attention_mask=attention_mask, **kwargs)
        windows = self.htsat.windows(input_values, attention_mask)
        logits = windows.average(self.classifier(outputs.window_features).mean(dim=(2, 3)))
        if self.config.problem_type == "regression":
            logits = logits.sigmoid()
        loss = None
        if labels is not None:
            if self.config.problem_type in ("multi_label_classification", "regression"):
                labels = labels.to(logits.dtype)
            loss = self.loss_function(labels, logits, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


__all__ = ["HTSATForAudioClassification", "HTSATModel", "HTSATModelOutput", "HTSATPreTrainedModel"]
