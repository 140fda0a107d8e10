"""Fast models with a cache: steps, chunks, generation, and who may touch the kernel of a step."""

import copy

import pytest
import torch
from transformers import DynamicCache, FalconMambaForCausalLM, MambaForCausalLM

from hf_audio_mamba.errors import ShapeError
from hf_audio_mamba.ops import available_backends, mixer_step, scan_backend
from tests.fast_mamba.models import VOCABULARY, assert_same, mixers, tokens, twins


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def steps(monkeypatch):
    """Counts the steps that one kernel takes."""
    count = []
    original = mixer_step.mixer_step

    def counting(*arguments):
        count.append(arguments[4] is not None)
        return original(*arguments)

    monkeypatch.setattr(mixer_step, "mixer_step", counting)
    return count


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


needs_kernel = pytest.mark.skipif("numba" not in available_backends(), reason="needs numba")


@needs_kernel
def test_a_plain_model_takes_each_step_of_a_block_in_one_kernel(steps):
    _, fast = twins()
    with torch.no_grad():
        cache = fast(tokens(1, 3), use_cache=True).cache_params
        assert steps == []
        fast(tokens(1, 1), cache_params=cache, use_cache=True)
        assert steps == [True] * 3
        fast(tokens(1, 1), attention_mask=torch.ones(1, 5), cache_params=cache, use_cache=True)
    assert steps == [True] * 6


@needs_kernel
def test_hooks_are_called_in_steps_too(steps):
    stock, fast = twins()
    ids = tokens(1, 5)
    seen = []
    first, second, third = fast.backbone.layers
    for module in (first.mixer.x_proj, second.mixer, third.norm):
        module.register_forward_hook(lambda module, inputs, output: seen.append(type(module).__name__))
    with torch.no_grad():
        cache = fast(ids[:, :4], use_cache=True).cache_params
        seen.clear()
        step = fast(ids[:, 4:], cache_params=cache, use_cache=True).logits
        assert_same(step, stock(ids).logits[:, 4:])
    assert seen == ["Linear", "MambaMixer", "MambaRMSNorm"]
    assert steps == [False, False]  # the mixers of the second and third block, without their norms


@needs_kernel
def test_steps_follow_the_parameters_however_they_change(steps):
    stock, fast = twins()
    ids = tokens(1, 5)
    changes = (
        lambda parameter: parameter.mul_(1.5),
        lambda parameter: parameter.data.add_(0.1),
        lambda parameter: setattr(parameter, "data", parameter.data.flip(0)),
    )
    with torch.no_grad():
        cache = fast(ids[:, :4], use_cache=True).cache_params
        for change in changes:
            for model in (stock, fast):
                for mixer in mixers(model):
                    for parameter in (mixer.A_log, mixer.D, mixer.in_proj.weight, mixer.dt_proj.bias):
                        change(parameter)
            expected = stock(ids[:, 4:], cache_params=copy.deepcopy(cache), use_cache=True).logits
            actual = fast(ids[:, 4:], cache_params=copy.deepcopy(cache), use_cache=True).logits
            assert_same(actual, expected)
    assert len(steps) == 9


def test_steps_with_gradients_have_them():
    _, fast = twins()
    ids = tokens(1, 5)
    cache = fast(ids[:, :4], use_cache=True).cache_params
    logits = fast(ids[:, 4:], cache_params=cache, use_cache=True).logits
    assert logits.shape == (1, 1, VOCABULARY)
    logits.sum().backward()
    assert all(mixer.dt_proj.weight.grad.abs().max() > 0 for mixer in mixers(fast))
