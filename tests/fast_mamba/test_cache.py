"""Fast models with a cache: steps, chunks, generation."""

import pytest
import torch
from transformers import DynamicCache, FalconMambaForCausalLM, MambaForCausalLM

from hf_audio_mamba.errors import ShapeError
from hf_audio_mamba.ops import scan_backend
from tests.fast_mamba.models import assert_same, mixers, tokens, twins


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def in_pieces(model, ids, lengths, **options):
    """Logits of all tokens, fed to one cache in pieces."""
    cache, logits = DynamicCache(config=model.config), []
    for piece in ids.split(lengths, dim=1):
        logits.append(model(piece, cache_params=cache, use_cache=True, **options).logits)
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("model_class", [MambaForCausalLM, FalconMambaForCausalLM])
@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("lengths", [[1] * 16, [9, 7], [5, 1, 1, 6, 1, 2], [2, 14]])
def test_a_cache_continued_by_any_pieces_equals_the_uncut_run(model_class, backend, lengths):
    stock, fast = twins(model_class, use_bias=True)
    ids = tokens(2, 16)
    with torch.no_grad(), scan_backend(backend):
        assert_same(in_pieces(fast, ids, lengths), stock(ids).logits)


def test_pieces_carry_gradients_of_their_own():
    _, fast = twins()
    ids = tokens(1, 10)
    uncut = fast(ids).logits
    cut = in_pieces(fast, ids, [6, 1, 3])
    assert_same(cut.detach(), uncut.detach())
    cut.square().sum().backward()
    assert all(mixer.A_log.grad.isfinite().all() for mixer in mixers(fast))


def test_a_cache_passes_between_both_sides():
    stock, fast = twins()
    ids = tokens(2, 12)
    with torch.no_grad():
        expected = stock(ids).logits
        for first, second in ((stock, fast), (fast, stock)):
            cache = first(ids[:, :9], use_cache=True).cache_params
            for t in range(9, 12):
                step = second(ids[:, t : t + 1], cache_params=cache, use_cache=True).logits
                assert_same(step, expected[:, t : t + 1])


def test_padded_steps_are_hidden():
    """A row that pads while others go on: what it does then leaves the others alone, and gives finite numbers."""
    stock, fast = twins()
    ids = tokens(2, 6)
    mask = torch.ones_like(ids)
    mask[1, 5] = 0
    with torch.no_grad():
        cache = fast(ids[:, :5], use_cache=True).cache_params
        step = fast(ids[:, 5:], attention_mask=mask, cache_params=cache, use_cache=True).logits
        assert_same(step[:1], stock(ids[:1]).logits[:, 5:])
    assert step.isfinite().all()


def test_a_cache_of_another_batch_is_named():
    _, fast = twins()
    with torch.no_grad():
        cache = fast(tokens(2, 4), use_cache=True).cache_params
        with pytest.raises(ShapeError, match="state"):
            fast(tokens(3, 1), cache_params=cache, use_cache=True)
        with pytest.raises(ShapeError, match="initial_state"):
            fast(tokens(3, 2), cache_params=cache, use_cache=True)


def test_a_reset_cache_starts_anew():
    _, fast = twins()
    ids = tokens(1, 7)
    with torch.no_grad():
        expected = fast(ids, use_cache=True)
        cache = expected.cache_params
        cache.reset()
        assert_same(fast(ids, cache_params=cache, use_cache=True).logits, expected.logits, 0)


GENERATION = {"max_new_tokens": 12, "min_new_tokens": 12, "pad_token_id": 0}


@pytest.mark.parametrize("model_class", [MambaForCausalLM, FalconMambaForCausalLM])
@pytest.mark.parametrize("options", [{"do_sample": False}, {"do_sample": False, "num_beams": 3}, {"do_sample": True}])
def test_generated_tokens_are_those_of_transformers(model_class, options):
    generated = []
    for model in twins(model_class):
        torch.manual_seed(5)
        generated.append(model.generate(tokens(2, 7), **GENERATION, **options))
    assert generated[0].shape == (2, 19)
    assert torch.equal(*generated)


def test_a_padded_prompt_continues_as_it_does_alone():
    stock, fast = twins(use_bias=True)
    ids = tokens(2, 9)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    together = fast.generate(ids, attention_mask=mask, do_sample=False, **GENERATION)
    alone = stock.generate(ids[1:, 4:], do_sample=False, **GENERATION)
    assert torch.equal(together[1, 9:], alone[0, 5:])
