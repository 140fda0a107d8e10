"""MoMamba: bidirectional Mamba over a whole log-mel spectrogram, with a class token at its end.

MoMamba: A Lightweight Music Oriented Mamba-Based Model for Music Information Retrieval Tasks, section 3.2.
"""

import math
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from hf_audio_mamba.errors import ShapeError
from hf_audio_mamba.layers import BidirectionalMamba, FrameOrders, MambaMixer, frame_orders
from hf_audio_mamba.models.input_checks import check_frames
from hf_audio_mamba.models.momamba.configuration_momamba import MoMambaConfig


def sinusoidal_positions(positions: torch.Tensor, hidden_size: int) -> torch.Tensor:
    """Sines and cosines of Vaswani et al. 2017, section 3.5.

    Args:
        positions: `(batch, length)` integer.
        hidden_size: Width of the encoding; an odd width drops the last cosine.

    Returns:
        `(batch, length, hidden_size)` float32.
    """
    pairs = torch.arange((hidden_size + 1) // 2, device=positions.device, dtype=torch.float32)
    angles = positions[..., None].float() * torch.exp(pairs * (-math.log(10_000.0) * 2 / hidden_size))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., :hidden_size]


class MoMambaEmbeddings(nn.Module):
    """Projects frames to the model's width, places the class token and adds positions where asked for."""

    def __init__(self, config: MoMambaConfig) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(config.num_mel_bins, config.hidden_size)
        if config.use_cls_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        if config.position_encoding == "learned":
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(
        self, input_values: torch.Tensor, num_padding: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embed left-padded frames.

        Args:
            input_values: `(batch, frames, bands)`, padding on the left.
            num_padding: `(batch,)` integer, padded frames of each sample.

        Returns:
            Hidden states `(batch, length, hidden_size)`, where length is frames + 1 with a class token, and the token's
            position `(batch,)`, or None without a token.
        """
        hidden_states: torch.Tensor = self.projection(input_values)
        batch, frames, _ = hidden_states.shape
        token_position = None
        if self.config.use_cls_token:
            hidden_states = torch.cat([hidden_states, self.cls_token.expand(batch, -1, -1)], dim=1)
            valid = frames - num_padding
            offset = {"end": valid, "middle": valid // 2, "front": torch.zeros_like(valid)}
            token_position = num_padding + offset[self.config.cls_position]
            if self.config.cls_position != "end":
                hidden_states = self._place_token(hidden_states, token_position)
        return hidden_states + self._positions(hidden_states, num_padding), token_position

    @staticmethod
    def _place_token(hidden_states: torch.Tensor, token_position: torch.Tensor) -> torch.Tensor:
        """Move the token from the last step to its position; the frames after it move one step on."""
        batch, length, width = hidden_states.shape
        steps = torch.arange(length, device=hidden_states.device)
        token = token_position[:, None]
        source = torch.where(steps == token, length - 1, steps - (steps > token).long())
        return hidden_states.gather(1, source[..., None].expand(batch, length, width))

    def _positions(self, hidden_states: torch.Tensor, num_padding: torch.Tensor) -> torch.Tensor | float:
        if self.config.position_encoding == "none":
            return 0.0
        length = hidden_states.shape[1]
        if self.config.position_encoding == "learned" and length > self.config.max_position_embeddings:
            raise ShapeError(
                f"input_values has {length} steps (class token included), but the learned position table has "
                f"{self.config.max_position_embeddings}; cut the clip into windows or raise max_position_embeddings"
            )
        steps = torch.arange(length, device=hidden_states.device)
        # Counted from the first valid frame, so that padding changes nothing.
        positions = (steps - num_padding[:, None]).clamp(min=0)
        if self.config.position_encoding == "learned":
            learned: torch.Tensor = self.position_embeddings(positions)
            return learned
        return sinusoidal_positions(positions, self.config.hidden_size).to(hidden_states.dtype)


class MoMambaBlock(GradientCheckpointingLayer):
    """One Mamba layer, layer normalisation and dropout (section 3.2.2)."""

    def __init__(self, config: MoMambaConfig) -> None:
        super().__init__()
        sizes = {"state_size": config.state_size, "conv_kernel": config.conv_kernel, "expand": config.expand}
        self.residual = config.residual
        self.bidirectional = config.bidirectional
        self.mixer: nn.Module
        if config.bidirectional:
            self.mixer = BidirectionalMamba(config.hidden_size, **sizes)
        else:
            self.mixer = MambaMixer(config.hidden_size, **sizes)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states: torch.Tensor, orders: FrameOrders) -> torch.Tensor:
        """Mix, normalise, drop.

        Args:
            hidden_states: `(batch, length, hidden_size)`.
            orders: How the mixers visit the rows.

        Returns:
            `(batch, length, hidden_size)`.
        """
        if self.bidirectional:
            mixed = self.mixer(hidden_states, orders)
        else:
            mixed = self.mixer(hidden_states, order=orders.forward, lengths=orders.lengths)
        if self.residual:
            mixed = hidden_states + mixed
        normalized: torch.Tensor = self.dropout(self.norm(mixed))
        return normalized


class MoMambaPreTrainedModel(PreTrainedModel):
    """Weight initialisation and the switches that Transformers reads."""

    config: MoMambaConfig
    base_model_prefix = "momamba"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["MoMambaBlock"]
    _can_record_outputs: ClassVar[dict[str, Any]] = {"hidden_states": MoMambaBlock}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            # PyTorch's own rule, as the paper names none; a fixed 0.02 leaves narrow models too quiet to start.
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        elif isinstance(module, MambaMixer):
            module.init_weights()
        elif isinstance(module, MoMambaEmbeddings) and self.config.use_cls_token:
            init.normal_(module.cls_token, std=self.config.initializer_range)


class MoMambaModel(MoMambaPreTrainedModel):
    """MoMamba without a head: hidden states of every step and one embedding of the clip."""

    def __init__(self, config: MoMambaConfig) -> None:
        super().__init__(config)
        self.embeddings = MoMambaEmbeddings(config)
        self.layers = nn.ModuleList([MoMambaBlock(config) for _ in range(config.num_hidden_layers)])
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The projection of a frame."""
        return self.embeddings.projection

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Encode log-mel frames.

        Args:
            input_values: `(batch, frames, bands)` from `MoMambaFeatureExtractor`.
            attention_mask: `(batch, frames)`, 1 at frames and 0 at padding. Padding may stand on either side; it is
                moved to the left, and the hidden states are returned in that order.
            kwargs: `output_hidden_states` and `return_dict`, as everywhere in Transformers.

        Returns:
            `last_hidden_state (batch, length, hidden_size)`, where length is frames + 1 with a class token, and
            `pooler_output (batch, hidden_size)`: the class token, or the pooled frames where there is none.

        Raises:
            ShapeError: `input_values` or `attention_mask` does not have the shape above.
        """
        check_frames(input_values, attention_mask, self.config.num_mel_bins)
        input_values = input_values.to(self.embeddings.projection.weight.dtype)
        batch, frames, bands = input_values.shape
        if attention_mask is None:
            num_padding = torch.zeros(batch, dtype=torch.long, device=input_values.device)
        else:
            order = attention_mask.bool().long().argsort(dim=1, stable=True)
            input_values = input_values.gather(1, order[..., None].expand(batch, frames, bands))
            num_padding = frames - attention_mask.bool().sum(dim=1)
        hidden_states, token_position = self.embeddings(input_values, num_padding)
        length = hidden_states.shape[1]
        padded = attention_mask is not None
        orders = frame_orders(length, num_padding if padded else None, token_position)
        for layer in self.layers:
            hidden_states = layer(hidden_states, orders)
        mask = None
        if padded:
            steps = torch.arange(length, device=hidden_states.device)
            mask = (steps >= num_padding[:, None]).to(hidden_states.dtype)[..., None]
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states, pooler_output=self._pool(hidden_states, token_position, mask)
        )

    def _pool(
        self, hidden_states: torch.Tensor, token_position: torch.Tensor | None, mask: torch.Tensor | None
    ) -> torch.Tensor:
        if token_position is not None:
            rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
            return hidden_states[rows, token_position]
        if self.config.pooling == "last":
            return hidden_states[:, -1]
        if mask is None:
            return hidden_states.mean(dim=1)
        return (hidden_states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


class MoMambaRegressionHead(nn.Module):
    """Two layers with ReLU and dropout between them, squashed to (0, 1) by a sigmoid (section 3.2.4)."""

    def __init__(self, config: MoMambaConfig) -> None:
        super().__init__()
        width = config.regression_hidden_size or max(1, config.hidden_size // 2)
        self.dense = nn.Linear(config.hidden_size, width)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.out_proj = nn.Linear(width, config.num_labels)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Map `(batch, hidden_size)` to `(batch, num_labels)` in (0, 1)."""
        values: torch.Tensor = self.out_proj(self.dropout(self.dense(embedding).relu()))
        return values.sigmoid()


class MoMambaForAudioClassification(MoMambaPreTrainedModel):
    """MoMamba with a linear head for classification, or a two-layer head for regression, by `config.problem_type`."""

    # The loss does not take num_items_in_batch; saying so keeps gradients right under gradient accumulation.
    accepts_loss_kwargs = False

    def __init__(self, config: MoMambaConfig) -> None:
        super().__init__(config)
        if config.problem_type is None and config.num_labels == 1:
            config.problem_type = "regression"
        self.num_labels = config.num_labels
        self.momamba = MoMambaModel(config)
        self.classifier: nn.Module
        if config.problem_type == "regression":
            self.classifier = MoMambaRegressionHead(config)
        else:
            self.classifier = nn.Linear(config.hidden_size, config.num_labels)
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
            input_values: `(batch, frames, bands)` from `MoMambaFeatureExtractor`.
            attention_mask: `(batch, frames)`, 1 at frames and 0 at padding.
            labels: `(batch,)` class indices (single label), `(batch, num_labels)` of 0 and 1 (multi label), or
                `(batch,)` or `(batch, num_labels)` values in [0, 1] (regression).
            kwargs: `output_hidden_states` and `return_dict`, as everywhere in Transformers.

        Returns:
            `logits (batch, num_labels)`, for regression the predicted values in (0, 1), and with labels the `loss`
            (cross-entropy, binary cross-entropy or mean squared error).

        Raises:
            ShapeError: `input_values` or `attention_mask` does not have the shape above.
        """
        outputs = self.momamba(input_values, attention_mask=attention_mask, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        loss = None
        if labels is not None:
            if self.config.problem_type in ("multi_label_classification", "regression"):
                labels = labels.to(logits.dtype)
            loss = self.loss_function(labels, logits, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


__all__ = ["MoMambaForAudioClassification", "MoMambaModel", "MoMambaPreTrainedModel"]
