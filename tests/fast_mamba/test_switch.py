"""Changing the side of a model: what is changed, undone, copied and saved, and which models are refused."""

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, FalconMambaForCausalLM, MambaForCausalLM
from transformers.models.falcon_mamba import modeling_falcon_mamba
from transformers.models.mamba import modeling_mamba

from hf_audio_mamba import use_fast_mamba, use_stock_mamba
from hf_audio_mamba.errors import UnsupportedModelError
from hf_audio_mamba.fast_mamba.mixers import FastFalconMambaMixer, FastMambaBlock, FastMambaMixer
from tests.fast_mamba.models import assert_same, mixers, stock_model, tokens


def classes(model):
    return [type(module) for module in model.modules()]


@pytest.mark.parametrize(
    ("model_class", "stock_mixer", "fast_mixer"),
    [
        (MambaForCausalLM, modeling_mamba.MambaMixer, FastMambaMixer),
        (FalconMambaForCausalLM, modeling_falcon_mamba.FalconMambaMixer, FastFalconMambaMixer),
    ],
)
def test_only_classes_change_and_all_change_back(model_class, stock_mixer, fast_mixer):
    model = stock_model(model_class)
    before, parameters = classes(model), dict(model.named_parameters())
    for _ in range(2):
        assert use_fast_mamba(model) is model
        assert all(type(mixer) is fast_mixer for mixer in mixers(model))
        assert all(isinstance(mixer, stock_mixer) for mixer in mixers(model))
        now = dict(model.named_parameters())
        assert now.keys() == parameters.keys()
        assert all(now[name] is parameters[name] for name in now)
    for _ in range(2):
        assert use_stock_mamba(model) is model
        assert classes(model) == before


def test_device_maps_find_the_classes_that_may_not_be_split():
    model = use_fast_mamba(stock_model())
    names = {type(module).__name__ for module in model.modules()}
    assert set(model._no_split_modules) <= names
    assert all(type(layer) is FastMambaBlock for layer in model.backbone.layers)


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_stay_fast_and_can_be_undone_alone(copy_of):
    model = use_fast_mamba(stock_model())
    twin = copy_of(model)
    assert classes(twin) == classes(model)
    use_stock_mamba(twin)
    assert type(mixers(twin)[0]) is modeling_mamba.MambaMixer
    assert type(mixers(model)[0]) is FastMambaMixer
    ids = tokens(1, 6)
    with torch.no_grad():
        assert_same(model(ids).logits, twin(ids).logits)


def test_saved_models_load_on_transformers_code(tmp_path):
    model = use_fast_mamba(stock_model())
    model.save_pretrained(tmp_path)
    loaded = MambaForCausalLM.from_pretrained(tmp_path)
    assert type(mixers(loaded)[0]) is modeling_mamba.MambaMixer
    assert loaded.state_dict().keys() == model.state_dict().keys()
    ids = tokens(1, 6)
    with torch.no_grad():
        assert_same(model(ids).logits, loaded.eval()(ids).logits)


def test_parts_and_wrappers_of_models_serve_too():
    model = stock_model()
    use_fast_mamba(model.backbone.layers[0])
    assert [type(mixer) is FastMambaMixer for mixer in mixers(model)] == [True, False, False]
    use_fast_mamba(nn.Sequential(model))
    assert all(type(mixer) is FastMambaMixer for mixer in mixers(model))


def test_hooks_of_accelerate_call_the_new_forward():
    from accelerate import hooks

    model = stock_model()
    mixer = mixers(model)[1]
    hooks.add_hook_to_module(mixer, hooks.ModelHook())
    ids = tokens(1, 6)
    with torch.no_grad():
        expected = model(ids).logits
        use_fast_mamba(model)
        assert mixer._old_forward.__func__ is FastMambaMixer.forward
        assert_same(model(ids).logits, expected)
        use_stock_mamba(model)
        assert mixer._old_forward.__func__ is modeling_mamba.MambaMixer.forward
        assert_same(model(ids).logits, expected, 0)


@pytest.mark.parametrize("switch", [use_fast_mamba, use_stock_mamba])
def test_models_without_mamba_mixers_are_refused(switch):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    with pytest.raises(UnsupportedModelError, match="BertModel has no mixer of the class MambaMixer"):
        switch(BertModel(BertConfig(**sizes)))


class OtherMixer(modeling_mamba.MambaMixer):
    def forward(self, hidden_states, **kwargs):
        return hidden_states


def make_other(mixer):
    mixer.__class__ = OtherMixer


def replace_forward(mixer):
    mixer.forward = lambda hidden_states, **kwargs: hidden_states


@pytest.mark.parametrize(
    ("change", "message"), [(make_other, "mixer is a OtherMixer"), (replace_forward, "forward replaced")]
)
def test_mixers_that_compute_something_else_are_refused_and_nothing_changes(change, message):
    model = stock_model()
    change(mixers(model)[2])
    before = classes(model)
    with pytest.raises(UnsupportedModelError, match=message):
        use_fast_mamba(model)
    assert classes(model) == before


def test_other_activations_are_refused():
    model = stock_model(hidden_act="gelu")
    with pytest.raises(UnsupportedModelError, match="'gelu'"):
        use_fast_mamba(model)
