"""`hf-audio-mamba benchmark decode`: one step of generating tokens with a MambaForCausalLM, stock and fast."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hf_audio_mamba.commands._benchmark_report import Report, Settings, add_benchmark, new_report
from hf_audio_mamba.commands._benchmark_timing import Case, Contestant, measure_case

VOCABULARIES = (1024, 50_280)
"""The first is of the size that audio codecs and note tokenizers have; the second is MambaConfig's default, with which
a step is mostly the product with the embedding matrix, the same on both sides."""
PROMPT, COMPARED_STEPS = 16, 8


def add_parser(benchmarks: Any) -> None:
    """Add `decode` to the things that can be measured."""
    add_benchmark(
        benchmarks, "decode", "a 1-token step of a 6 x 512 MambaForCausalLM, with and without use_fast_mamba", measure
    )


def measure(settings: Settings) -> Report:
    """Measure the step after a prompt, for one sequence.

    Args:
        settings: Rounds, threads, sizes.
    """
    report = new_report("decode", settings)
    for vocabulary in VOCABULARIES[:1] if settings.quick else VOCABULARIES:
        _compare(report, vocabulary)
    return report


def _language_model(vocabulary: int, quick: bool) -> nn.Module:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2} if quick else {"hidden_size": 512, "num_hidden_layers": 6}
    model: nn.Module = MambaForCausalLM(MambaConfig(vocab_size=vocabulary, **size)).eval()
    return model


def _compare(report: Report, vocabulary: int) -> None:
    from hf_audio_mamba.fast_mamba import use_fast_mamba

    settings = report.settings
    stock = _language_model(vocabulary, settings.quick)
    fast = copy.deepcopy(stock)
    use_fast_mamba(fast)
    tokens = torch.randint(vocabulary, (1, PROMPT + COMPARED_STEPS), generator=torch.Generator().manual_seed(0))
    theirs, ours = "transformers", "use_fast_mamba"
    name = f"1-token step, 6 x 512, vocabulary {vocabulary}" if not settings.quick else "1-token step, tiny"
    contestants = [Contestant(theirs, _step(stock, tokens)), Contestant(ours, _step(fast, tokens))]
    case = measure_case(name, contestants, repeats=settings.repeats, shortest_s=settings.shortest_s)
    # Steps that are timed read different numbers of tokens on the two sides; these read the same ones.
    compared = {
        side: dataclasses.replace(case.samples[side], result=_logits(model, tokens))
        for side, model in ((theirs, stock), (ours, fast))
    }
    report.add_case(Case(name, compared), reference=theirs)
    report.add_ratio(f"{name}, over transformers", case, theirs, ours)


def _step(model: nn.Module, tokens: Tensor) -> Callable[[], None]:
    """Reads one token more, whatever it is, after a prompt that has been read before."""
    with torch.no_grad():
        cache = model(input_ids=tokens[:, :PROMPT], use_cache=True).cache_params

    def call() -> None:
        with torch.no_grad():
            model(input_ids=tokens[:, :1], cache_params=cache, use_cache=True)

    return call


def _logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """Logits (steps, vocabulary) of the tokens after the prompt, read one by one."""
    with torch.no_grad():
        cache = model(input_ids=tokens[:, :PROMPT], use_cache=True).cache_params
        steps = [
            model(input_ids=tokens[:, [index]], cache_params=cache, use_cache=True).logits[0, -1]
            for index in range(PROMPT, tokens.shape[1])
        ]
    return torch.stack(steps)
