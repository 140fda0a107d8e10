"""Prompts and single tokens through a causal language model, whatever it keeps of the past."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_audio_mamba.errors import CheckpointError, UsageError

_CACHES = ("cache_params", "past_key_values")


class CausalDecoder:
    """The state of a batch of sequences in a model.

    Models with `cache_params` (Mamba and its kin) keep a state of constant size and read one token at a time, since
    stock ones are wrong with more; models with `past_key_values` keep keys and values of all tokens; models with
    neither read everything anew at each step.

    Args:
        model: Causal language model in evaluation mode.

    Raises:
        UsageError: If the model is in training mode.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        if model.training:
            raise UsageError(
                "the model is in training mode and would drop parts of itself at random; call model.eval()"
            )
        arguments = inspect.signature(model.forward).parameters
        self._model = model
        self._cache_name = next((name for name in _CACHES if name in arguments), None)
        self._last_logits_only = {"logits_to_keep": 1} if "logits_to_keep" in arguments else {}
        self._takes_positions = "position_ids" in arguments
        self._cache: Any = None
        self._ids = torch.empty(0, 0, dtype=torch.long)
        self._mask: Tensor | None = None

    @property
    def max_length(self) -> int | None:
        """Tokens that a sequence may have; None for models that read without end."""
        if self._cache_name == "cache_params":
            return None
        return getattr(self._model.config, "max_position_embeddings", None)

    @torch.no_grad()
    def read_prompts(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read prompts from their beginning.

        Args:
            prompts: One or more token ids for each sequence; shorter prompts are padded on the left and masked.

        Returns:
            Logits of the next token `(batch, vocabulary)`, float32 on the CPU.
        """
        longest = max(map(len, prompts))
        self._ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        mask = (torch.arange(longest) >= longest - lengths[:, None]).long()
        self._mask = None if bool(mask.all()) else mask
        self._cache = None
        return self._read(self._ids)

    @torch.no_grad()
    def read_tokens(self, tokens: Sequence[int]) -> Tensor:
        """Read the next token of each sequence; logits as in `read_prompts`."""
        new = torch.tensor(tokens)[:, None]
        if self._mask is not None and self._cache_name != "cache_params":
            self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        if self._cache_name is None:
            self._ids = new = torch.cat([self._ids, new], dim=1)
        return self._read(new)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these sequences: leave some out, or fork one by naming it several times."""
        index = torch.tensor(rows)
        if self._cache is not None:
            self._cache.reorder_cache(index.to(self._model.device))
        if self._cache_name is None:
            self._ids = self._ids[index]
        if self._mask is not None:
            self._mask = self._mask[index]

    def _read(self, ids: Tensor) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": ids.to(self._model.device), **self._last_logits_only}
        if self._mask is not None and (self._cache is None or self._cache_name != "cache_params"):
            inputs["attention_mask"] = self._mask.to(self._model.device)
            if self._takes_positions:
                positions = (self._mask.cumsum(dim=1) - 1).clamp(min=0)
                inputs["position_ids"] = positions[:, -ids.shape[1] :].to(self._model.device)
        if self._cache_name is not None:
            inputs["use_cache"] = True
            if self._cache is not None:
                inputs[self._cache_name] = self._cache
        output = self._model(**inputs)
        if self._cache_name is not None:
            self._cache = getattr(output, self._cache_name)
        logits: Tensor = output.logits[:, -1].float().cpu()
        if not math.isfinite(float(logits.sum())):
            raise CheckpointError(
                f"the model {self._model.name_or_path!r} gives NaN or infinite scores: its weights are damaged, or "
                f"{self._model.dtype} is too small for it; check them or use dtype=float32"
            )
        return logits
