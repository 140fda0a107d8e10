"""Fast models compute what transformers' models do: values, gradients, padding, precision, adapters."""

import copy

import pytest
import torch
from torch import nn
from transformers import FalconMambaForCausalLM, MambaForCausalLM

from hf_audio_mamba import use_fast_mamba
from hf_audio_mamba.errors import ShapeError
from tests.fast_mamba.models import assert_same, mixers, stock_model, tokens, twins

PROJECTIONS = ("in_proj", "x_proj", "dt_proj", "out_proj")


def gradients(model, ids, mask=None):
    model.zero_grad()
    model(ids, attention_mask=mask, labels=ids).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("model_class", [MambaForCausalLM, FalconMambaForCausalLM])
@pytest.mark.parametrize("changes", [{}, {"use_bias": True}, {"use_conv_bias": False, "conv_kernel": 2}])
def test_logits_and_hidden_states_are_those_of_transformers(model_class, changes):
    stock, fast = twins(model_class, **changes)
    ids = tokens(2, 21)
    with torch.no_grad():
        expected = stock(ids, output_hidden_states=True)
        actual = fast(ids, output_hidden_states=True)
    assert_same(actual.logits, expected.logits)
    for layer, wanted in zip(actual.hidden_states, expected.hidden_states, strict=True):
        assert_same(layer, wanted)


@pytest.mark.parametrize("model_class", [MambaForCausalLM, FalconMambaForCausalLM])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_transformers(model_class, checkpointing):
    stock, fast = twins(model_class)
    for model in (stock, fast):
        model.train()
    if checkpointing:
        fast.activation_checkpointing_enable()
    ids = tokens(2, 18)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    expected = gradients(stock, ids, mask)
    for name, gradient in gradients(fast, ids, mask).items():
        assert_same(gradient, expected[name], 5e-5)


def test_training_goes_the_same_way():
    stock, fast = twins()
    ids = tokens(2, 12)
    for model in (stock, fast):
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
        for _ in range(5):
            optimizer.zero_grad()
            model(ids, labels=ids).loss.backward()
            optimizer.step()
    for name, parameter in fast.state_dict().items():
        assert_same(parameter, stock.state_dict()[name], 1e-3)


@pytest.mark.parametrize("changes", [{}, {"use_bias": True}])
def test_padding_on_the_left_leaves_no_trace(changes):
    stock, fast = twins(**changes)
    ids = tokens(2, 15)
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    with torch.no_grad():
        logits = fast(ids, attention_mask=mask).logits
        assert_same(logits[0, 6:], stock(ids[:1, 6:]).logits[0])
        assert_same(logits[1], stock(ids[1:]).logits[0])
        assert_same(fast(ids, attention_mask=mask.bool()).logits, logits, 0)
        assert_same(fast(ids, attention_mask=torch.ones_like(ids)).logits, fast(ids).logits, 0)


@pytest.mark.parametrize("shape", [(15,), (1, 15), (2, 14), (2, 15, 1)])
def test_a_mask_of_another_shape_is_named(shape):
    fast = use_fast_mamba(stock_model())
    with pytest.raises(ShapeError, match="attention_mask must be"):
        fast(tokens(2, 15), attention_mask=torch.ones(shape))


def test_bfloat16_models_work_and_keep_a_single_precision_state():
    stock, fast = twins()
    ids = tokens(2, 20)
    fast = fast.to(torch.bfloat16)
    with torch.no_grad():
        expected = stock(ids).logits
        prefill = fast(ids[:, :12], use_cache=True)
        cache = prefill.cache_params
        steps = [fast(ids[:, t : t + 1], cache_params=cache, use_cache=True).logits for t in range(12, 16)]
        rest = fast(ids[:, 16:], cache_params=cache, use_cache=True).logits
    assert mixers(fast)[0].A_log.dtype == torch.bfloat16
    assert cache.layers[0].recurrent_states[0].dtype == torch.float32
    assert_same(torch.cat([prefill.logits, *steps, rest], dim=1), expected, 0.05)


def test_double_precision_is_not_cut_short():
    _, fast = twins()
    ids = tokens(1, 9)
    with torch.no_grad():
        single, exact = fast(ids).logits, fast.double()(ids).logits
        assert_same(single.double(), exact)
        assert fast.backbone(ids).last_hidden_state.dtype == torch.float64


def test_autocast_runs():
    stock, fast = twins()
    ids = tokens(1, 9)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        prefill = fast(ids[:, :8], use_cache=True)
        step = fast(ids[:, 8:], cache_params=prefill.cache_params, use_cache=True).logits
    with torch.no_grad():
        assert_same(torch.cat([prefill.logits, step], dim=1).float(), stock(ids).logits, 0.05)


def without_adapters(model):
    """The state dict of a model whose LoRA adapters are merged into its weights."""
    merged = copy.deepcopy(model)
    for module in merged.modules():
        if hasattr(module, "merge"):
            module.merge()
    return {k.replace("base_layer.", ""): v for k, v in merged.state_dict().items() if "lora_" not in k}


def test_adapters_on_all_projections_take_part_and_learn():
    import peft  # takes seconds: only where it is needed

    fast = use_fast_mamba(stock_model())
    config = peft.LoraConfig(r=2, target_modules=list(PROJECTIONS), init_lora_weights=False)
    # Given the whole model, PEFT refuses out_proj by the model's name, as transformers' kernels leave it out.
    peft.inject_adapter_in_model(config, fast.backbone.layers)
    ids = tokens(2, 11)
    fast(ids, labels=ids).loss.backward()
    adapters = {name: parameter for name, parameter in fast.named_parameters() if "lora_" in name}
    assert len(adapters) == 2 * len(PROJECTIONS) * 3
    for name, parameter in adapters.items():
        assert parameter.grad.abs().max() > 0, name

    merged = stock_model(seed=1)
    merged.load_state_dict(without_adapters(fast))
    with torch.no_grad():
        prefill = fast(ids[:, :10], use_cache=True)
        step = fast(ids[:, 10:], cache_params=prefill.cache_params, use_cache=True).logits
        assert_same(torch.cat([prefill.logits, step], dim=1), merged(ids).logits)
        assert (merged(ids).logits - stock_model()(ids).logits).abs().max() > 0.01  # or nothing was adapted


class Adapted(nn.Module):
    """A projection with something learned beside it, as adapters are made."""

    def __init__(self, projection):
        super().__init__()
        self.projection = projection
        self.beside = nn.Linear(projection.in_features, projection.out_features, bias=False)

    def forward(self, x):
        return self.projection(x) + self.beside(x)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_any_module_in_place_of_a_projection_takes_part(name):
    fast = use_fast_mamba(stock_model())
    wrapped = copy.deepcopy(fast)
    for mixer in mixers(wrapped):
        setattr(mixer, name, Adapted(getattr(mixer, name)))
    ids = tokens(1, 8)
    wrapped(ids, labels=ids).loss.backward()
    assert all(getattr(mixer, name).beside.weight.grad.abs().max() > 0 for mixer in mixers(wrapped))
    with torch.no_grad():
        for mixer, source in zip(mixers(fast), mixers(wrapped), strict=True):
            getattr(mixer, name).weight += getattr(source, name).beside.weight
        cache = wrapped(ids[:, :7], use_cache=True).cache_params
        step = wrapped(ids[:, 7:], cache_params=cache, use_cache=True).logits
        assert_same(step, fast(ids).logits[:, 7:])


@pytest.mark.slow
def test_a_compiled_model_matches():
    stock, fast = twins(num_hidden_layers=1)
    ids = tokens(2, 9)
    with torch.no_grad():
        compiled = torch.compile(fast, backend="aot_eager")
        assert_same(compiled(ids, use_cache=False).logits, stock(ids).logits)
