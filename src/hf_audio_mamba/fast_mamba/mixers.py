"""Mixers and blocks of transformers' Mamba models with the same parameters and another computation."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from transformers.cache_utils import Cache
from transformers.integrations.accelerate import force_accelerate_hooks
from transformers.models.falcon_mamba.modeling_falcon_mamba import FalconMambaMixer
from transformers.models.mamba.modeling_mamba import MambaBlock, MambaMixer, MambaRMSNorm

from hf_audio_mamba.errors import ShapeError
from hf_audio_mamba.ops import (
    causal_conv1d_silu,
    causal_conv1d_silu_update,
    mixer_step,
    selective_scan,
    selective_state_update,
)
from hf_audio_mamba.ops.mixer_weights import MixerWeights, Norm


class _TimeMajorMixer:
    """The computation of a transformers mixer on (batch, length, channels) tensors without transposing any.

    All projections are called as modules, so adapters on any of them take part and receive gradients.
    """

    conv_kernel_size: int
    time_step_rank: int
    ssm_state_size: int
    layer_idx: int
    in_proj: nn.Module
    conv1d: nn.Conv1d
    x_proj: nn.Module
    dt_proj: nn.Linear
    out_proj: nn.Module
    A_log: Tensor
    D: Tensor
    _modules: dict[str, Any]
    _parameters: dict[str, Any]

    @force_accelerate_hooks(["conv1d"])  # whose parameters are used without calling it
    def forward(
        self, hidden_states: Tensor, cache_params: Cache | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Mix along time.

        Args:
            hidden_states: `(batch, length, hidden)`.
            cache_params: Cache to continue and to update; its states carry no gradients.
            attention_mask: `(batch, length)` or longer, where the last `length` columns count; 0 at padding. Padding on
                the left leaves no trace.

        Returns:
            `(batch, length, hidden)`.
        """
        mask = padding_mask(attention_mask, hidden_states)
        if cache_params is None:
            return self._mix_sequence(hidden_states, mask, None, None, None)
        if mask is None:
            mixed = self.fused_step(hidden_states, cache_params, None)
            if mixed is not None:
                return mixed
        conv_state = cache_params.get_conv_state(self.layer_idx)
        state = cache_params.get_recurrent_state(self.layer_idx)
        if self._takes_step(hidden_states, cache_params) and _can_update(state, hidden_states):
            return self._mix_step(hidden_states, mask, conv_state.transpose(1, 2), state)
        return self._mix_sequence(hidden_states, mask, conv_state, state, cache_params)

    def fused_step(self, hidden_states: Tensor, cache_params: Cache, norm: Norm | None) -> Tensor | None:
        """The result of one kernel for a step of this mixer, or of a block around it if `norm` is given.

        None, and nothing is changed, if the kernel does not serve here: it takes one frame on the CPU in float32, a
        cache that has begun, and projections whose call does nothing but apply their weights.
        """
        operands = self.step_operands(hidden_states, cache_params)
        if operands is None or _has_any_global_hook():  # type: ignore[no-untyped-call]  # torch's
            return None
        conv_state, state, weights = operands
        if not mixer_step.serves(conv_state, state, hidden_states, weights, norm):
            return None
        return mixer_step.mixer_step(conv_state, state, hidden_states, weights, norm)

    def step_operands(self, hidden_states: Tensor, cache_params: Cache) -> tuple[Tensor, Tensor, MixerWeights] | None:
        """The states of the convolution and of the scan, and the parameters, for a step by these alone.

        None where it takes more than them: more than one frame, a cache to begin, modules that do not just apply their
        weights.
        """
        if not self._takes_step(hidden_states, cache_params):
            return None
        conv_state = cache_params.get_conv_state(self.layer_idx)
        state = cache_params.get_recurrent_state(self.layer_idx)
        weights = None if conv_state is None or state is None else self._plain_weights()
        return None if weights is None else (conv_state, state, weights)

    def _takes_step(self, hidden_states: Tensor, cache_params: Cache) -> bool:
        return hidden_states.shape[1] == 1 and not cache_params.is_recording_past(self.layer_idx)

    def _mix_sequence(
        self,
        hidden_states: Tensor,
        mask: Tensor | None,
        conv_state: Tensor | None,
        state: Tensor | None,
        cache_params: Cache | None,
    ) -> Tensor:
        x, z = self.in_proj(hidden_states).chunk(2, dim=-1)
        if mask is not None:
            x = x * mask
        past = None
        if conv_state is not None:
            past = conv_state[..., conv_state.shape[-1] - (self.conv_kernel_size - 1) :].transpose(1, 2)
        if torch.is_grad_enabled():  # the backward pass needs these as they are now
            past = None if past is None else past.clone()
            state = None if state is None else state.clone()
        convolved = causal_conv1d_silu(x, self.conv1d.weight.squeeze(1), self.conv1d.bias, initial_state=past)
        if mask is not None:
            convolved = convolved * mask  # the bias of the convolution would reach the state
        dt, dt_bias, B, C = self._select(convolved)
        A = -torch.exp(self.A_log.float())
        y, last_state = selective_scan(
            convolved, dt, A, B, C, self.D.float(), z, dt_bias, initial_state=state, return_last_state=True
        )
        if cache_params is not None:
            self._write(cache_params, x.detach(), last_state.detach())
        mixed: Tensor = self.out_proj(y)
        return mixed

    def _mix_step(self, hidden_states: Tensor, mask: Tensor | None, conv_state: Tensor, state: Tensor) -> Tensor:
        xz = self.in_proj(hidden_states)
        x, z = xz[:, 0].chunk(2, dim=-1)
        if mask is not None:
            x = x * mask[:, 0]
        x = causal_conv1d_silu_update(conv_state, x, self.conv1d.weight.squeeze(1), self.conv1d.bias)
        if mask is not None:
            x = x * mask[:, 0]
        dt, dt_bias, B, C = self._select(x[:, None])
        A = -torch.exp(self.A_log.float())
        y = selective_state_update(state, x, dt[:, 0], A, B[:, 0], C[:, 0], self.D.float(), z, dt_bias)
        mixed: Tensor = self.out_proj(y[:, None])
        return mixed

    def _select(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Step sizes before softplus `(batch, length, channels)`, their bias, B and C `(batch, length, state)`."""
        sizes = [self.time_step_rank, self.ssm_state_size, self.ssm_state_size]
        dt, B, C = self.x_proj(x).split(sizes, dim=-1)
        return *self._step_sizes(dt), B, C

    def _step_sizes(self, dt: Tensor) -> tuple[Tensor, Tensor | None]:
        """Step sizes, and the bias that the scan is to add to them: it does so in passing, `dt_proj` in a sweep."""
        if torch.compiler.is_compiling() or not is_plain(self.dt_proj) or _has_any_global_hook():  # type: ignore[no-untyped-call]  # torch's
            return self.dt_proj(dt), None
        return F.linear(dt, self.dt_proj.weight), self.dt_proj.bias

    def _plain_weights(self) -> MixerWeights | None:
        """The parameters, if calling the projections as modules comes to the same as using these."""
        # Through the dictionaries: looking up this many attributes of modules takes as long as a third of the step.
        modules = self._modules
        projections = [modules[name] for name in ("in_proj", "x_proj", "dt_proj", "out_proj")]
        if not all(map(is_plain, projections)) or not is_plain(modules["conv1d"], nn.Conv1d):
            return None
        inward, selecting, timing, outward = (module._parameters for module in projections)
        if selecting["bias"] is not None:
            return None
        convolution, own = modules["conv1d"]._parameters, self._parameters
        if own.get("A_log") is None or own.get("D") is None:
            return None  # they are computed from others
        return MixerWeights(
            inward["weight"],
            inward["bias"],
            convolution["weight"],
            convolution["bias"],
            selecting["weight"],
            timing["weight"],
            timing["bias"],
            own["A_log"],
            own["D"],
            outward["weight"],
            outward["bias"],
        )

    def _write(self, cache_params: Cache, x: Tensor, last_state: Tensor) -> None:
        """Put the last inputs of the convolution `(batch, length, channels)` and the last state into the cache."""
        if not cache_params.is_recording_past(self.layer_idx):
            x = x[:, -self.conv_kernel_size :]
        x = x.transpose(1, 2).to(last_state.dtype)
        cache_params.update_conv_state(x, self.layer_idx, conv_kernel_size=self.conv_kernel_size)
        cache_params.update_recurrent_state(last_state, self.layer_idx)


class FastMambaMixer(_TimeMajorMixer, MambaMixer):
    """`transformers.models.mamba.modeling_mamba.MambaMixer` on this package's operations."""


class FastFalconMambaMixer(_TimeMajorMixer, FalconMambaMixer):
    """`FalconMambaMixer` on this package's operations: it normalises the step sizes' input, B and C."""

    def _select(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        sizes = [self.time_step_rank, self.ssm_state_size, self.ssm_state_size]
        dt, B, C = self.x_proj(x).split(sizes, dim=-1)
        return *self._step_sizes(self.dt_layernorm(dt)), self.b_layernorm(B), self.c_layernorm(C)

    def _plain_weights(self) -> None:
        """None: the step in one kernel has no normalisation."""


class FastMambaBlock(MambaBlock):
    """`MambaBlock` of transformers that takes a step with its norm and its sum in one kernel where it can."""

    def forward(
        self, hidden_states: Tensor, cache_params: Cache | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Arguments and result as in the class it derives from."""
        if cache_params is not None and hidden_states.shape[1] == 1:
            norm = self.plain_norm()
            if norm is not None and padding_mask(attention_mask, hidden_states) is None:
                output: Tensor | None = self.mixer.fused_step(hidden_states, cache_params, norm)
                if output is not None:
                    return output
        return super().forward(hidden_states, cache_params=cache_params, attention_mask=attention_mask)  # type: ignore[no-any-return]

    def plain_norm(self) -> Norm | None:
        """The norm, if calling it and the mixer as modules does nothing but what their classes do."""
        norm, mixer = self._modules["norm"], self._modules["mixer"]
        if not is_plain(norm, MambaRMSNorm) or not is_plain(mixer, FastMambaMixer):
            return None
        return Norm(norm._parameters["weight"], norm.variance_epsilon)


# Device maps are drawn along the classes that a model lists by this name; pickle goes by the qualified name.
for _fast, _stock in (
    (FastMambaBlock, MambaBlock),
    (FastMambaMixer, MambaMixer),
    (FastFalconMambaMixer, FalconMambaMixer),
):
    _fast.__name__ = _stock.__name__


def padding_mask(attention_mask: Tensor | None, hidden_states: Tensor) -> Tensor | None:
    """The mask of these frames `(batch, length, 1)`, or None where it is known to hide nothing."""
    if attention_mask is None:
        return None
    batch, length = hidden_states.shape[:2]
    if attention_mask.ndim != 2 or attention_mask.shape[0] != batch or attention_mask.shape[1] < length:
        raise ShapeError(
            f"attention_mask must be (batch, length) with at least the {batch} rows and {length} columns of the "
            f"input, got shape {tuple(attention_mask.shape)}."
        )
    mask = attention_mask[:, attention_mask.shape[1] - length :]
    # Elsewhere than on the CPU a look at its values would wait for the device.
    if mask.device.type == "cpu" and not torch.compiler.is_compiling() and bool(mask.all()):
        return None
    return mask[:, :, None].to(hidden_states.dtype)


def _can_update(state: Tensor | None, hidden_states: Tensor) -> bool:
    """Whether a step may overwrite this state of a cache."""
    if state is None or torch.is_grad_enabled():
        return False
    dtype = torch.float64 if hidden_states.dtype == torch.float64 else torch.float32
    return state.dtype == dtype and state.is_contiguous()


def is_plain(module: nn.Module, expected: type[nn.Module] = nn.Linear) -> bool:
    """Whether calling a module does nothing but what its class does."""
    if type(module) is not expected or "forward" in vars(module):
        return False
    return not (module._forward_hooks or module._forward_pre_hooks)
