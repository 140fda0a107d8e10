"""What a causal language model pays for each token of a piece, by teacher forcing.

Mamba that runs by `hf_audio_mamba.use_fast_mamba` reads a piece of any length in parts and carries its state from part
to part: every token is predicted from all tokens before it. Other models read windows: a token is predicted from all
tokens before it if it stands in the first window, else from at least `window - stride` of them. Either way each token
after BOS is scored once.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_audio_mamba.errors import CheckpointError, DataError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Array = NDArray[Any]

DEFAULT_WINDOW = 2048
"""Window of models whose configuration tells no longest length."""

DEFAULT_PART = 2048
"""Tokens that a model which carries its state reads at a time."""


@dataclass(frozen=True)
class ScoringContext:
    """How many tokens before it a token is predicted from.

    Attributes:
        window: Tokens that the model reads at once; None where its state is carried through the whole piece.
        stride: Tokens by which the next window begins later; None where there are no windows.
    """

    window: int | None = None
    stride: int | None = None

    def __str__(self) -> str:
        if self.window is None or self.stride is None:
            return "all tokens before, by carried state"
        fewest = self.window - self.stride + 1
        return f"at least {fewest} tokens (all, where fewer), by windows of {self.window}"


def scoring_context(
    model: "PreTrainedModel", *, window: int | None = None, stride: int | None = None
) -> ScoringContext:
    """The context by which a model is scored.

    Args:
        model: Causal language model.
        window: Tokens to read at once; None carries the state where the model can, and else takes the longest length
            of its configuration.
        stride: Tokens by which each window begins after the one before, at most `window`; None takes half a window.

    Raises:
        UsageError: If the numbers are out of range, or a stride is given where there are no windows.
    """
    longest = _longest(model)
    if window is None and carries_state(model):
        if stride is not None:
            raise UsageError("stride is for windows, and this model carries its state; give a window too, or neither")
        return ScoringContext()
    window = window if window is not None else (longest or DEFAULT_WINDOW)
    if window < 1 or (longest is not None and window > longest):
        most = "" if longest is None else f" and at most {longest}, the longest input of the model"
        raise UsageError(f"window is {window}; it must be at least 1{most}")
    stride = stride if stride is not None else max(1, window // 2)
    if not 1 <= stride <= window:
        raise UsageError(f"stride is {stride}; it must be from 1 to the window of {window}")
    return ScoringContext(window, stride)


def carries_state(model: "PreTrainedModel") -> bool:
    """Whether a model can go on from a state with any number of tokens: Mamba by `use_fast_mamba`."""
    from transformers.models.falcon_mamba.modeling_falcon_mamba import FalconMambaMixer
    from transformers.models.mamba.modeling_mamba import MambaMixer

    from hf_audio_mamba.fast_mamba.mixers import FastFalconMambaMixer, FastMambaMixer

    mixers = [module for module in model.modules() if isinstance(module, MambaMixer | FalconMambaMixer)]
    return bool(mixers) and all(isinstance(mixer, FastMambaMixer | FastFalconMambaMixer) for mixer in mixers)


def token_nats(
    model: "PreTrainedModel",
    ids: Sequence[int],
    context: ScoringContext | None = None,
    *,
    part: int = DEFAULT_PART,
) -> Array:
    """-ln p of each token of a piece after its first, BOS, which is given.

    Args:
        model: Causal language model; it is scored in evaluation mode and left in the mode that it has.
        ids: Ids of the piece, BOS and EOS among them, at least two.
        context: As `scoring_context` gives it; None takes the model's default.
        part: Tokens read at a time where the state is carried; it bounds memory and does not change the result.

    Returns:
        `(len(ids) - 1,)` in float64, each at least 0, computed from the model's logits in float32 or better.

    Raises:
        DataError: If there are fewer than two ids, or one is not in the model's vocabulary.
        UsageError: If the context asks for a carried state and the model has none, or `part` is below 1.
        CheckpointError: If the model gives scores that are not finite.
    """
    if part < 1:
        raise UsageError(f"part is {part}; it must be at least 1")
    context = scoring_context(model) if context is None else context
    if context.window is None and not carries_state(model):
        raise UsageError("this model carries no state; score it by windows, or run it by use_fast_mamba if it is Mamba")
    tokens = _checked_ids(model, ids)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            losses = _carried(model, tokens, part) if context.window is None else _by_windows(model, tokens, context)
            nats: Array = torch.cat(list(losses)).double().cpu().numpy()
    finally:
        model.train(was_training)
    if not np.isfinite(nats).all():
        raise CheckpointError(
            f"the model {model.name_or_path!r} gives NaN or infinite scores: its weights are damaged, or {model.dtype} "
            "is too small for it; check them or use float32"
        )
    return nats.clip(min=0.0)  # rounding can take -ln 1 below 0


def _carried(model: "PreTrainedModel", tokens: Tensor, part: int) -> Iterator[Tensor]:
    cache = None
    for start in range(0, len(tokens) - 1, part):
        inputs, targets = tokens[start : start + part], tokens[start + 1 : start + part + 1]
        inputs = inputs[: len(targets)]
        output = model(input_ids=inputs[None], cache_params=cache, use_cache=True)
        cache = output.cache_params
        yield _losses(output.logits[0], targets)


def _by_windows(model: "PreTrainedModel", tokens: Tensor, context: ScoringContext) -> Iterator[Tensor]:
    window, stride = context.window or 0, context.stride or 0
    without_cache = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    scored = 0
    for start in range(0, len(tokens) - 1, stride):
        end = min(start + window, len(tokens) - 1)
        logits = model(input_ids=tokens[None, start:end], **without_cache).logits[0]
        yield _losses(logits[scored - start :], tokens[scored + 1 : end + 1])
        scored = end
        if scored == len(tokens) - 1:
            return


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.nn.functional.cross_entropy(precise, targets.to(precise.device), reduction="none")


def _checked_ids(model: "PreTrainedModel", ids: Sequence[int]) -> Tensor:
    tokens = torch.as_tensor(ids, dtype=torch.long, device=model.device)
    if tokens.ndim != 1 or len(tokens) < 2:
        raise DataError(f"ids of shape {tuple(tokens.shape)} are no piece; it has BOS and at least one token after it")
    size = model.get_input_embeddings().num_embeddings
    if bool(((tokens < 0) | (tokens >= size)).any()):
        raise DataError(
            f"ids go from {int(tokens.min())} to {int(tokens.max())}, the model has 0 to {size - 1}; use its tokenizer"
        )
    return tokens


def _longest(model: "PreTrainedModel") -> int | None:
    longest = getattr(model.config, "max_position_embeddings", None)
    return int(longest) if longest else None
