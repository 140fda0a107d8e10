"""-ln p of tokens, against one forward pass in float64 for each token and exactly the context that is stated."""

import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from hf_audio_mamba import use_fast_mamba
from hf_audio_mamba.errors import CheckpointError, DataError, UsageError
from hf_audio_mamba.midi import ScoringContext, carries_state, scoring_context, token_nats

VOCABULARY = 23
LONGEST = 16


def mamba() -> MambaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
    return MambaForCausalLM(MambaConfig(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2)).eval()


def llama() -> LlamaForCausalLM:
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=LONGEST, **sizes, initializer_range=0.5)
    return LlamaForCausalLM(config).eval()


def ids(length: int, seed: int = 0) -> list[int]:
    return [1, *(int(i) for i in np.random.default_rng(seed).integers(3, VOCABULARY, length - 2)), 2]


def nats_token_by_token(model, tokens, first_seen) -> np.ndarray:
    """float64, one pass a token over `tokens[first_seen(target):target]`."""
    exact = type(model)(model.config).double().eval()
    exact.load_state_dict(model.state_dict())
    losses = []
    with torch.no_grad():
        for target in range(1, len(tokens)):
            logits = exact(torch.tensor([tokens[first_seen(target) : target]])).logits[0, -1].double().numpy()
            shifted = logits - logits.max()
            losses.append(math.log(np.exp(shifted).sum()) - shifted[tokens[target]])
    return np.array(losses)


@pytest.mark.parametrize("part", [7, 39, 100])
def test_a_carried_state_sees_the_whole_past(part: int) -> None:
    model, tokens = mamba(), ids(40)
    expected = nats_token_by_token(model, tokens, lambda target: 0)
    nats = token_nats(use_fast_mamba(model), tokens, part=part)
    assert nats.dtype == np.float64
    assert np.abs(nats - expected).max() < 2e-6
    assert expected.std() > 0.01


@pytest.mark.parametrize(("window", "stride"), [(16, 8), (16, 16), (16, 1), (5, 3), (1, 1), (12, 11)])
@pytest.mark.parametrize("length", [2, 6, 17, 41])
def test_windows_see_what_they_say(window: int, stride: int, length: int) -> None:
    model, tokens = llama(), ids(length)

    def first_seen(target: int) -> int:
        return next(start for start in range(0, length, stride) if target <= start + window)

    context = scoring_context(model, window=window, stride=stride)
    nats = token_nats(model.double(), tokens, context)
    expected = nats_token_by_token(model, tokens, first_seen)
    assert nats.shape == (length - 1,)
    assert np.abs(nats - expected).max() < 1e-9
    seen = [target - first_seen(target) for target in range(1, length)]
    assert all(count >= min(target, window - stride + 1) for target, count in enumerate(seen, 1))
    assert f"at least {window - stride + 1} tokens" in str(context)


def test_a_piece_within_a_window_is_scored_as_the_models_own_loss() -> None:
    model, tokens = llama(), ids(LONGEST)
    with torch.no_grad():
        loss = model(torch.tensor([tokens]), labels=torch.tensor([tokens])).loss.item()
    assert token_nats(model, tokens).mean() == pytest.approx(loss, rel=1e-5)


def test_windows_of_a_stock_mamba_as_long_as_the_piece_equal_its_carried_state() -> None:
    model, tokens = mamba(), ids(30)
    context = scoring_context(model, window=29)
    windows = token_nats(model, tokens, context)
    assert np.abs(windows - token_nats(use_fast_mamba(model), tokens)).max() < 2e-6


def test_contexts_are_those_that_models_have() -> None:
    stock, attention = mamba(), llama()
    assert not carries_state(stock)
    assert not carries_state(attention)
    assert scoring_context(attention) == ScoringContext(LONGEST, LONGEST // 2)
    assert scoring_context(stock).window == 2048
    fast = use_fast_mamba(stock)
    assert carries_state(fast)
    assert scoring_context(fast) == ScoringContext()
    assert scoring_context(fast, window=8) == ScoringContext(8, 4)
    assert str(ScoringContext()) == "all tokens before, by carried state"


def test_the_mode_of_the_model_stays_and_dropout_does_not_act() -> None:
    model = llama()
    expected = token_nats(model, ids(10))
    model.config.attention_dropout = 0.9
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train()
    assert np.array_equal(token_nats(model, ids(10)), expected)
    assert model.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": LONGEST + 1}, f"at most {LONGEST}, the longest input"),
        ({"window": 0}, "window is 0"),
        ({"window": 8, "stride": 9}, "stride is 9"),
        ({"stride": 0}, "stride is 0"),
    ],
)
def test_contexts_out_of_range_are_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        scoring_context(llama(), **options)


def test_what_cannot_be_scored_is_named() -> None:
    with pytest.raises(UsageError, match="stride is for windows"):
        scoring_context(use_fast_mamba(mamba()), stride=4)
    with pytest.raises(UsageError, match="carries no state"):
        token_nats(mamba(), ids(5), ScoringContext())
    with pytest.raises(UsageError, match="part is 0"):
        token_nats(llama(), ids(5), part=0)
    for wrong in ([], [1], [[1, 2]]):
        with pytest.raises(DataError, match="are no piece"):
            token_nats(llama(), wrong)
    for wrong in ([1, VOCABULARY], [-1, 2]):
        with pytest.raises(DataError, match=f"the model has 0 to {VOCABULARY - 1}"):
            token_nats(llama(), wrong)
    broken = llama()
    broken.lm_head.weight.data.fill_(math.nan)
    with pytest.raises(CheckpointError, match="NaN or infinite scores"):
        token_nats(broken, ids(5))
