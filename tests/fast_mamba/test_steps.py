"""Fast models one token at a time: who takes part in one kernel, who stays out of it, and that both are right."""

import copy

import pytest
import torch
from torch import nn
from transformers import FalconMambaForCausalLM, MambaForCausalLM

from hf_audio_mamba import use_fast_mamba, use_stock_mamba
from hf_audio_mamba.ops import available_backends, few_rows_linear, mixer_step, scan_backend, stack_step
from tests.fast_mamba.models import SIZES, VOCABULARY, assert_same, mixers, tokens, twins

pytestmark = pytest.mark.skipif("numba" not in available_backends(), reason="needs numba")

LAYERS = SIZES["num_hidden_layers"]
WHOLE = ["stack", "head"]  # the kernels of a step of a model that nothing was done to


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def kernels(monkeypatch):
    """Names of the kernels of steps in the order of their calls."""
    called = []

    def watch(module, function, name_of):
        original = getattr(module, function)

        def watched(*arguments):
            called.append(name_of(arguments))
            return original(*arguments)

        monkeypatch.setattr(module, function, watched)

    watch(stack_step, "stack_step", lambda arguments: "stack")
    watch(mixer_step, "mixer_step", lambda arguments: "mixer" if arguments[4] is None else "block")
    watch(few_rows_linear, "few_rows_linear", lambda arguments: "head")
    return called


def begun(model, ids):
    """A cache that has read all tokens but the last."""
    return model(ids[:, :-1], use_cache=True).cache_params


def step_of(model, cache, ids, **options):
    return model(ids[:, -1:], cache_params=copy.deepcopy(cache), use_cache=True, **options).logits


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("changes", [{}, {"use_bias": True}, {"use_conv_bias": False, "tie_word_embeddings": False}])
def test_a_plain_model_takes_a_step_in_one_kernel_and_its_head_in_another(kernels, batch, changes):
    stock, fast = twins(**changes)
    ids = tokens(batch, 6)
    with torch.no_grad():
        cache = begun(fast, ids)
        kernels.clear()
        expected = stock(ids).logits[:, -1:]
        assert_same(step_of(fast, cache, ids), expected)
        assert_same(step_of(fast, cache, ids, attention_mask=torch.ones(batch, 6)), expected)
        assert_same(step_of(fast, cache, ids, logits_to_keep=1), expected)
    assert kernels == 3 * WHOLE


def test_the_cache_is_the_same_after_it(kernels):
    stock, fast = twins()
    ids = tokens(2, 6)
    with torch.inference_mode():
        caches = [begun(model, ids) for model in (stock, fast)]
        for model, cache in zip((stock, fast), caches, strict=True):
            model(ids[:, -1:], cache_params=cache, use_cache=True)
    assert kernels[-2:] == WHOLE
    for expected, actual in zip(caches[0].layers, caches[1].layers, strict=True):
        assert_same(actual.conv_states[0], expected.conv_states[0])
        assert_same(actual.recurrent_states[0], expected.recurrent_states[0])


def test_outputs_have_the_form_that_transformers_gives_them(kernels):
    stock, fast = twins()
    ids = tokens(1, 6)
    with torch.no_grad():
        cache = begun(fast, ids)
        for options in ({}, {"use_cache": False}, {"use_cache": True}, {"return_dict": False}):
            expected, actual = (
                model.backbone(ids[:, -1:], cache_params=copy.deepcopy(cache), **options) for model in (stock, fast)
            )
            assert type(actual) is type(expected)
            assert_same(actual[0], expected[0])
            if isinstance(actual, tuple):
                assert len(actual) == len(expected)
            else:
                assert actual.keys() == expected.keys()
    assert kernels.count("stack") == 4


def test_embeddings_serve_in_place_of_tokens(kernels):
    _, fast = twins()
    ids = tokens(1, 6)
    with torch.no_grad():
        cache = begun(fast, ids)
        embedded = fast.backbone.embeddings(ids[:, -1:])
        step = fast(inputs_embeds=embedded, cache_params=copy.deepcopy(cache), use_cache=True).logits
        assert_same(step, step_of(fast, cache, ids), 0)
        with pytest.raises(ValueError, match="exactly one"):
            fast(ids[:, -1:], inputs_embeds=embedded, cache_params=cache)
    assert kernels[-4:] == 2 * WHOLE


def test_hidden_states_of_all_blocks_are_there_where_they_are_asked_for(kernels):
    stock, fast = twins()
    ids = tokens(1, 6)
    with torch.no_grad():
        cache = begun(fast, ids)
        kernels.clear()
        expected, actual = (
            model(ids[:, -1:], cache_params=copy.deepcopy(cache), output_hidden_states=True).hidden_states
            for model in (stock, fast)
        )
    assert kernels == ["block"] * LAYERS + ["head"]
    for layer, wanted in zip(actual, expected, strict=True):
        assert_same(layer, wanted)


def test_hooks_are_called_in_steps_too(kernels):
    stock, fast = twins()
    ids = tokens(1, 5)
    seen = []
    first, second, third = fast.backbone.layers
    modules = first.mixer.x_proj, second.mixer, third.norm, fast.backbone.embeddings, fast.backbone.norm_f, fast.lm_head
    with torch.no_grad():
        cache, expected = begun(fast, ids), stock(ids).logits[:, -1:]
        for module in modules:
            module.register_forward_hook(lambda module, inputs, output: seen.append(module))
        kernels.clear()
        assert_same(step_of(fast, cache, ids), expected)
    assert len(seen) == len(modules)
    assert set(seen) == set(modules)
    assert kernels == ["mixer", "mixer", "head"]  # the mixers of the second and third block, without their norms


@pytest.mark.parametrize("place", ["backbone.layers.1", "backbone.norm_f", "backbone.layers.2.mixer"])
def test_a_hook_that_changes_an_output_counts(kernels, place):
    stock, fast = twins()
    ids = tokens(1, 5)
    with torch.no_grad():
        cache = begun(fast, ids)
        for model in (stock, fast):
            model.get_submodule(place).register_forward_hook(lambda module, inputs, output: output * 1.5)
        assert_same(step_of(fast, cache, ids), step_of(stock, cache, ids))
    assert "stack" not in kernels


def in_place(parameter):
    parameter.mul_(1.5)


def through_data(parameter):
    parameter.data.add_(0.1)


def by_another_tensor(parameter):
    parameter.data = parameter.data.flip(0)


@pytest.mark.parametrize("change", [in_place, through_data, by_another_tensor])
def test_steps_follow_the_parameters_however_they_change(kernels, change):
    stock, fast = twins()
    ids = tokens(1, 5)
    with torch.no_grad():
        cache = begun(fast, ids)
        before = step_of(fast, cache, ids)
        for model in (stock, fast):
            for mixer in mixers(model):
                for parameter in (mixer.A_log, mixer.D, mixer.in_proj.weight, mixer.dt_proj.bias):
                    change(parameter)
            change(model.backbone.norm_f.weight)
            change(model.lm_head.weight)
        expected = step_of(stock, cache, ids)
        assert_same(step_of(fast, cache, ids), expected)
    assert (before - expected).abs().max() > 0.1
    assert kernels[-4:] == 2 * WHOLE


def test_steps_follow_training(kernels):
    stock, fast = twins()
    ids = tokens(2, 9)
    generated = []
    for model in (stock, fast):
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        for _ in range(2):
            generated.append(model.generate(ids[:1], max_new_tokens=6, min_new_tokens=6, do_sample=False))
            model(ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        cache = begun(stock, ids)
        assert_same(step_of(fast, cache, ids), step_of(stock, cache, ids), 1e-4)
    assert torch.equal(torch.cat(generated[:2]), torch.cat(generated[2:]))
    assert not torch.equal(*generated[:2])  # training has changed what the model says
    assert kernels[-2:] == WHOLE


def test_steps_with_gradients_have_them(kernels):
    _, fast = twins()
    ids = tokens(1, 5)
    logits = step_of(fast, begun(fast, ids), ids)
    assert logits.shape == (1, 1, VOCABULARY)
    logits.sum().backward()
    assert all(mixer.dt_proj.weight.grad.abs().max() > 0 for mixer in mixers(fast))
    assert fast.lm_head.weight.grad.abs().max() > 0
    assert kernels == []


def leave_to_torch(fast):
    return scan_backend("torch")


def cast(fast):
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize(("context", "tolerance"), [(leave_to_torch, 1e-5), (cast, 0.05)])
def test_other_ways_are_taken_where_they_are_asked_for(kernels, context, tolerance):
    stock, fast = twins()
    ids = tokens(1, 5)
    with torch.no_grad():
        cache, expected = begun(fast, ids), stock(ids).logits[:, -1:]
        kernels.clear()
        with context(fast):
            assert_same(step_of(fast, cache, ids).float(), expected, tolerance)
    assert kernels == []


def test_compiled_models_take_the_same_steps(kernels):
    stock, fast = twins()
    ids = tokens(1, 6)
    with torch.no_grad():
        cache, expected = begun(fast, ids), stock(ids).logits[:, -1:]
        kernels.clear()
        compiled = torch.compile(fast, backend="eager")
        assert_same(step_of(compiled, cache, ids), expected)
    assert kernels == []


@pytest.mark.parametrize("projection", ["in_proj", "out_proj"])
def test_adapters_take_part_in_steps(kernels, projection):
    import peft  # takes seconds: only where it is needed

    _, fast = twins()
    config = peft.LoraConfig(r=2, target_modules=[f"1.mixer.{projection}"], init_lora_weights=False)
    peft.inject_adapter_in_model(config, fast.backbone.layers)
    ids = tokens(1, 6)
    with torch.no_grad():
        cache = begun(fast, ids)
        kernels.clear()
        assert_same(step_of(fast, cache, ids), fast(ids).logits[:, -1:])
    assert "stack" not in kernels


@pytest.mark.parametrize("model_class", [MambaForCausalLM, FalconMambaForCausalLM])
def test_the_head_alone_changes_its_class_and_changes_back(model_class):
    stock, fast = twins(model_class)
    assert isinstance(fast.lm_head, nn.Linear)
    assert type(fast.lm_head) is not nn.Linear
    assert type(fast.lm_head).__name__ == "Linear"
    assert all(type(mixer.in_proj) is nn.Linear for mixer in mixers(fast))
    use_stock_mamba(fast)
    assert [type(module) for module in fast.modules()] == [type(module) for module in stock.modules()]


def test_a_head_of_another_size_goes_on_working(kernels):
    _, fast = twins()
    fast.resize_token_embeddings(VOCABULARY + 3)
    ids = tokens(1, 6)
    with torch.no_grad():
        logits = step_of(fast, begun(fast, ids), ids)
        assert_same(logits, use_stock_mamba(fast)(ids).logits[:, -1:])
    assert logits.shape[-1] == VOCABULARY + 3
    assert use_fast_mamba(fast).lm_head.weight.shape[0] == VOCABULARY + 3
