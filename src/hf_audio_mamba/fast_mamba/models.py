"""transformers' Mamba models with one kernel for a step of all their blocks, and heads that read weights faster."""

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from transformers.cache_utils import Cache
from transformers.models.mamba.modeling_mamba import MambaModel, MambaOutput, MambaRMSNorm

from hf_audio_mamba.fast_mamba.mixers import FastMambaBlock, is_plain, padding_mask
from hf_audio_mamba.ops import few_rows_linear, stack_step
from hf_audio_mamba.ops.mixer_weights import MixerWeights, Norm


class FastMambaModel(MambaModel):
    """`MambaModel` of transformers that takes a step with all its blocks and its last norm in one kernel."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache_params: Cache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...] | MambaOutput:
        """Arguments and result as in the class it derives from."""
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        if cache_params is not None and not wanted and (input_ids is None) != (inputs_embeds is None):
            if inputs_embeds is None:
                input_ids, inputs_embeds = None, self.embeddings(input_ids)
            hidden_states = self._fused_step(inputs_embeds, cache_params, attention_mask)
            if hidden_states is not None:
                return self._output(hidden_states, cache_params, use_cache, return_dict)
        return super().forward(
            input_ids,
            inputs_embeds=inputs_embeds,
            cache_params=cache_params,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
            attention_mask=attention_mask,
            **kwargs,
        )

    def _output(
        self, hidden_states: Tensor, cache_params: Cache, use_cache: bool | None, return_dict: bool | None
    ) -> tuple[Any, ...] | MambaOutput:
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if self.config.return_dict if return_dict is None else return_dict:
            return MambaOutput(last_hidden_state=hidden_states, cache_params=cache_params if use_cache else None)
        return hidden_states, cache_params

    def _fused_step(self, hidden_states: Tensor, cache_params: Cache, attention_mask: Tensor | None) -> Tensor | None:
        """The result of one kernel for a step, normalised; None, and nothing is changed, if it does not serve here."""
        if hidden_states.shape[1] != 1 or not is_plain(self.norm_f, MambaRMSNorm):
            return None
        if self.gradient_checkpointing and self.training:
            return None  # the blocks then leave the cache alone
        if _has_any_global_hook():  # type: ignore[no-untyped-call]  # torch's
            return None
        if padding_mask(attention_mask, hidden_states) is not None:
            return None
        states: list[Tensor] = []
        blocks: list[tuple[MixerWeights, Norm]] = []
        for block in self.layers:
            norm = block.plain_norm() if is_plain(block, FastMambaBlock) else None
            operands = None if norm is None else block.mixer.step_operands(hidden_states, cache_params)
            if norm is None or operands is None:
                return None
            states += operands[:2]
            blocks.append((operands[2], norm))
        last_norm = Norm(self.norm_f.weight, self.norm_f.variance_epsilon)
        if not stack_step.serves(states, hidden_states, blocks, last_norm):
            return None
        return stack_step.stack_step(states, hidden_states, blocks, last_norm)


class FastHead(nn.Linear):
    """`torch.nn.Linear` that is faster for a few rows of a large weight."""

    def forward(self, input: Tensor) -> Tensor:
        """Arguments and result as in the class it derives from."""
        if few_rows_linear.serves(input, self.weight, self.bias):
            return few_rows_linear.few_rows_linear(input, self.weight, self.bias)
        return super().forward(input)


# Device maps and quantisers go by the names of classes; pickle goes by the qualified name.
FastMambaModel.__name__ = MambaModel.__name__
FastHead.__name__ = nn.Linear.__name__
