"""Small causal language models with random weights, and music drawn at random."""

from collections import Counter
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from hf_audio_mamba.midi import MidiGrammar
from hf_audio_mamba.midi.vocabulary import split_name, token_names

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def mamba(vocabulary: int, seed: int = 0, **changes: Any) -> MambaForCausalLM:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.5}
    return _seeded(MambaForCausalLM, MambaConfig(vocab_size=vocabulary, **SPECIAL, **sizes | changes), seed)


def llama(vocabulary: int, seed: int = 0) -> LlamaForCausalLM:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return _seeded(
        LlamaForCausalLM, LlamaConfig(vocab_size=vocabulary, initializer_range=0.5, **SPECIAL, **sizes), seed
    )


def gpt2(vocabulary: int, seed: int = 0, context: int = 1024) -> GPT2LMHeadModel:
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": context, "initializer_range": 0.5}
    return _seeded(GPT2LMHeadModel, GPT2Config(vocab_size=vocabulary, **SPECIAL, **sizes), seed)


def _seeded(model_class: Any, config: Any, seed: int) -> Any:
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = model_class(config).eval()
    torch.set_rng_state(state)
    return model


def random_music(miditok: Any, length: int, seed: int = 0) -> list[int]:
    """Ids drawn among those that the grammar allows, every type as likely as any other, ending with a whole note."""
    grammar = MidiGrammar(miditok)
    first = [split_name(names[0])[0] if names else "" for names in token_names(miditok)]
    count = Counter(first)
    weights = np.array([1 / count[name] for name in first])
    random = np.random.default_rng(seed)
    ids: list[int] = []
    state = grammar.start
    while len(ids) < length or not grammar.may_move_on(state):
        allowed = weights * ~grammar.banned(state)
        ids.append(int(random.choice(len(first), p=allowed / allowed.sum())))
        state = grammar.advance(state, ids[-1:])
    return ids


def errors(miditok: Any, ids: list[int]) -> float:
    """MidiTok's own count of grammatical errors, per token."""
    if miditok.one_token_stream:
        return float(miditok.tokens_errors(ids))
    return float(miditok.tokens_errors([ids])[0])
