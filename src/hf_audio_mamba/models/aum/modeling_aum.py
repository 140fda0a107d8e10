"""AuM: bidirectional Mamba over spectrogram patches, with a class token among them.

Audio Mamba: Bidirectional State Space Model for Audio Representation Learning (Erol et al. 2024). Parameters have the
names of the published weights; the body's stand below `aum.`.
"""

import math
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from hf_audio_mamba.layers import BiBiMamba, FoBiMamba, MambaMixer, resize_patch_kernel, resize_position_table
from hf_audio_mamba.models.aum.configuration_aum import AuMConfig
from hf_audio_mamba.models.aum.patch_grid import GRID_FIELDS, replacement, stored_grid, with_fields
from hf_audio_mamba.models.aum.windows import clip_windows
from hf_audio_mamba.models.input_checks import check_frames

logger = logging.get_logger(__name__)


class AuMPatchEmbeddings(nn.Module):
    """One token for each square of a spectrogram, band of squares by band of squares."""

    def __init__(self, config: AuMConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, config.hidden_size, config.patch_size, stride=config.patch_size)

    def forward(self, spectrograms: torch.Tensor) -> torch.Tensor:
        """Map `(batch, frames, bands)` to `(batch, patches, hidden_size)`, time running fastest."""
        patches: torch.Tensor = self.proj(spectrograms.transpose(1, 2)[:, None])
        return patches.flatten(2).transpose(1, 2)


class AuMPositionEmbeddings(nn.Module):
    """The learned positions: class tokens first, wherever they stand in the sequence, then the patches."""

    def __init__(self, config: AuMConfig) -> None:
        super().__init__()
        bands, times = config.patch_grid
        self.num_class_tokens = config.num_class_tokens
        self.pos_embed = nn.Parameter(torch.empty(1, self.num_class_tokens + bands * times, config.hidden_size))
        self.pos_embed._no_weight_decay = True  # type: ignore[attr-defined]

    def forward(self, class_tokens: torch.Tensor, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add positions to class tokens `(1, tokens, hidden_size)` and patches `(batch, patches, hidden_size)`."""
        for_tokens, for_patches = self.pos_embed.tensor_split([self.num_class_tokens], dim=1)
        return class_tokens + for_tokens, patches + for_patches


class AuMRMSNorm(nn.Module):
    """Root mean square normalisation, computed in the precision of the residual stream."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        """Normalise `(batch, length, hidden_size)`; the result has the dtype of the weights."""
        weight = self.weight.to(stream.dtype)
        return F.rms_norm(stream, weight.shape, weight, self.eps).to(self.weight.dtype)


def _mixer(config: AuMConfig) -> MambaMixer:
    sizes = {"state_size": config.state_size, "conv_kernel": config.conv_kernel, "expand": config.expand}
    if config.bimamba_type == "fo-fo":
        return MambaMixer(config.hidden_size, **sizes)
    if config.bimamba_type == "fo-bi":
        return FoBiMamba(config.hidden_size, **sizes)
    return BiBiMamba(config.hidden_size, **sizes, divide_output=config.divide_output)


class AuMBlock(GradientCheckpointingLayer):
    """Normalise, mix, and add to the residual stream."""

    def __init__(self, config: AuMConfig) -> None:
        super().__init__()
        self.norm = AuMRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mixer = _mixer(config)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        """Add what the mixer makes of the stream `(batch, length, hidden_size)`; its dtype is kept."""
        mixed: torch.Tensor = self.mixer(self.norm(stream))
        return stream + mixed.to(stream.dtype)


class AuMPreTrainedModel(PreTrainedModel):
    """Weight initialisation, loading for another patch grid, and the switches that Transformers reads."""

    config: AuMConfig
    base_model_prefix = "aum"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["AuMBlock"]
    _can_record_outputs: ClassVar[dict[str, Any]] = {"hidden_states": AuMBlock}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        # Modules without parameters of their own do not come here, so the head is known by what holds it.
        if module is getattr(self, "head", None):
            init.trunc_normal_(module.weight, std=std)
        elif isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        elif isinstance(module, nn.Conv1d):
            bound = 1 / math.sqrt(self.config.conv_kernel)
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, MambaMixer):
            module.init_weights()
            # As PyTorch's rule for linear layers, smaller the more of them add to the residual stream (GPT-2).
            bound = 1 / math.sqrt(module.intermediate_size * self.config.num_hidden_layers)
            init.uniform_(module.out_proj.weight, -bound, bound)
        elif isinstance(module, nn.Conv2d):
            init.lecun_normal_(module.weight)
        elif isinstance(module, AuMPositionEmbeddings):
            init.trunc_normal_(module.pos_embed, std=std)
        elif isinstance(module, AuMModel):
            for token in module.class_tokens():
                init.trunc_normal_(token, std=std)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        config: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Load a model; for another `max_length`, `patch_size` or `num_mel_bins` than it was saved with, resize it.

        Args:
            pretrained_model_name_or_path: Folder or repository.
            model_args: As in Transformers.
            config: Configuration, whose patch grid may be another one than that of the stored weights.
            kwargs: As in Transformers. Fields of the configuration among them change it.

        Returns:
            The model, after `resize_positions` where its grid is another one; with `output_loading_info=True` a pair
            of it and what was found in the file.
        """
        if not isinstance(config, PreTrainedConfig) and not kwargs.keys() & set(GRID_FIELDS):
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)
        stored = stored_grid(pretrained_model_name_or_path, kwargs)
        if isinstance(config, PreTrainedConfig):
            asked = {name: getattr(config, name) for name in stored}
            config = with_fields(config, stored)
        else:
            asked = {name: kwargs.pop(name, value) for name, value in stored.items()}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)
        if asked != stored:
            (loaded[0] if isinstance(loaded, tuple) else loaded).resize_positions(**asked)
        return loaded

    @torch.no_grad()
    def resize_positions(
        self, *, max_length: int | None = None, patch_size: int | None = None, num_mel_bins: int | None = None
    ) -> Self:
        """Change the patch grid in place, keeping what the weights know.

        Positions are interpolated bilinearly with antialiasing; patch kernels are multiplied by the pseudo-inverse of
        the resizing (FlexiViT, Beyer et al. 2023). Make the optimizer after this: it replaces parameters.

        Args:
            max_length: Frames heard at once, a multiple of the patch size; None keeps the present value.
            patch_size: Bands and frames that make one token; None keeps the present value.
            num_mel_bins: Bands per frame; None keeps the present value. The features must change with it.

        Returns:
            The model itself.

        Raises:
            StrictDataclassClassValidationError: A size is out of range or no multiple of the patch size.
        """
        sizes = {"max_length": max_length, "patch_size": patch_size, "num_mel_bins": num_mel_bins}
        changes = {name: size for name, size in sizes.items() if size is not None}
        old_grid = self.config.patch_grid
        new = with_fields(self.config, changes)
        new.validate()
        body: AuMModel = self.base_model
        table, kernel = body.pos_embed.pos_embed, body.patch_embed.proj.weight
        resized = resize_position_table(table, old_grid, new.patch_grid, num_leading=new.num_class_tokens)
        body.pos_embed.pos_embed = replacement(table, resized)
        body.patch_embed.proj.weight = replacement(kernel, resize_patch_kernel(kernel, new.patch_size))
        body.patch_embed.proj.kernel_size = body.patch_embed.proj.stride = (new.patch_size, new.patch_size)
        for name, size in changes.items():
            setattr(self.config, name, size)
        logger.info(f"{type(self).__name__}: patch grid {old_grid} interpolated to {new.patch_grid}")
        return self


class AuMModel(AuMPreTrainedModel):
    """AuM without a head: hidden states of every token and one embedding of the clip."""

    def __init__(self, config: AuMConfig) -> None:
        super().__init__(config)
        self.patch_embed = AuMPatchEmbeddings(config)
        self.pos_embed = AuMPositionEmbeddings(config)
        names = {0: [], 1: ["cls_token"], 2: ["cls_token_head", "cls_token_tail"]}[config.num_class_tokens]
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.empty(1, 1, config.hidden_size)))
        self.layers = nn.ModuleList([AuMBlock(config) for _ in range(config.num_hidden_layers)])
        self.norm_f = AuMRMSNorm(config.hidden_size, config.rms_norm_eps)
        for token in self.class_tokens():
            token._no_weight_decay = True  # type: ignore[attr-defined]
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The projection of a patch."""
        return self.patch_embed.proj

    def class_tokens(self) -> list[torch.Tensor]:
        """The learned class tokens, in the order of the sequence."""
        return [token for name, token in self.named_parameters(recurse=False) if name.startswith("cls_token")]

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Encode filter bank frames.

        A clip shorter than `config.max_length` is padded with `config.padding_value`; a longer one is heard in as few
        windows as cover it, evenly placed, whose embeddings are averaged.

        Args:
            input_values: `(batch, frames, bands)` from `AuMFeatureExtractor`.
            attention_mask: `(batch, frames)`, 1 at frames and 0 at padding, which may stand on either side.
            kwargs: `output_hidden_states` and `return_dict`, as everywhere in Transformers.

        Returns:
            `last_hidden_state (batch, windows * tokens, hidden_size)`, normalised, where windows is the number that
            the longest row needs and tokens is patches plus class tokens; `pooler_output (batch, hidden_size)`; and
            on request `hidden_states`, the residual stream `(batch * windows, tokens, hidden_size)` before and after
            every block.

        Raises:
            ShapeError: `input_values` or `attention_mask` does not have the shape above.
        """
        check_frames(input_values, attention_mask, self.config.num_mel_bins)
        input_values = input_values.to(self.patch_embed.proj.weight.dtype)
        windows, weights = clip_windows(input_values, attention_mask, self.config.max_length, self.config.padding_value)
        stream, token_positions = self._embed(windows.flatten(0, 1))
        if self.config.residual_in_fp32:
            stream = stream.to(torch.promote_types(stream.dtype, torch.float32))
        for layer in self.layers:
            stream = layer(stream)
        states = self.norm_f(stream)
        pooled = states[:, token_positions].mean(dim=1).unflatten(0, weights.shape)
        pooled = (pooled * weights[..., None].to(pooled.dtype)).sum(dim=1)
        return BaseModelOutputWithPooling(
            last_hidden_state=states.unflatten(0, weights.shape).flatten(1, 2), pooler_output=pooled
        )

    def _embed(self, spectrograms: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """Tokens `(batch, length, hidden_size)` of windows, and which of them stand for the clip."""
        patches = self.patch_embed(spectrograms)
        tokens = self.class_tokens()
        leading = torch.cat(tokens, dim=1) if tokens else patches[:1, :0]
        leading, patches = self.pos_embed(leading, patches)
        if self.config.transpose_token_sequence:
            patches = patches.unflatten(1, self.config.patch_grid).transpose(1, 2).flatten(1, 2)
        batch, length, _ = patches.shape
        leading = leading.expand(batch, -1, -1)
        if self.config.cls_position == "none":
            return patches, list(range(length))
        if self.config.cls_position == "double":
            return torch.cat([leading[:, :1], patches, leading[:, 1:]], dim=1), [0, length + 1]
        place = {"front": 0, "middle": length // 2, "end": length}[self.config.cls_position]
        return torch.cat([patches[:, :place], leading, patches[:, place:]], dim=1), [place]


class AuMForAudioClassification(AuMPreTrainedModel):
    """AuM with a linear head, for classification or regression by `config.problem_type`."""

    # The loss does not take num_items_in_batch; saying so keeps gradients right under gradient accumulation.
    accepts_loss_kwargs = False

    def __init__(self, config: AuMConfig) -> None:
        super().__init__(config)
        if config.problem_type is None and config.num_labels == 1:
            config.problem_type = "regression"
        self.num_labels = config.num_labels
        self.aum = AuMModel(config)
        self.head = nn.Linear(config.hidden_size, config.num_labels)
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
            input_values: `(batch, frames, bands)` from `AuMFeatureExtractor`.
            attention_mask: `(batch, frames)`, 1 at frames and 0 at padding.
            labels: `(batch,)` class indices (single label), `(batch, num_labels)` of 0 and 1 (multi label), or
                `(batch,)` or `(batch, num_labels)` values (regression).
            kwargs: `output_hidden_states` and `return_dict`, as everywhere in Transformers.

        Returns:
            `logits (batch, num_labels)`, for regression the predicted values, and with labels the `loss`
            (cross-entropy, binary cross-entropy or mean squared error). Over several windows logits are averaged.

        Raises:
            ShapeError: `input_values` or `attention_mask` does not have the shape above.
        """
        outputs = self.aum(input_values, attention_mask=attention_mask, **kwargs)
        # The head is linear: it makes the mean of the windows' logits of the mean of their embeddings.
        logits = self.head(outputs.pooler_output)
        loss = None
        if labels is not None:
            if self.config.problem_type in ("multi_label_classification", "regression"):
                labels = labels.to(logits.dtype)
            loss = self.loss_function(labels, logits, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


__all__ = ["AuMForAudioClassification", "AuMModel", "AuMPreTrainedModel"]
