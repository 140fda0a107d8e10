"""`hf-audio-mamba benchmark decode`: reading a prompt and one step of generation, MambaForCausalLM stock and fast."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hf_audio_mamba.commands._benchmark_report import Report, Settings, add_benchmark, new_report
from hf_audio_mamba.commands._benchmark_timing import Case, Contestant, measure_case

VOCABULARIES = (1024, 20_000, 50_280)
"""Sizes that audio codecs, note tokenizers and MambaConfig by default have; with the last, a step is mostly the product
with the embedding matrix."""
PROMPT, COMPARED_STEPS = 16, 8
LONG_PROMPT, QUICK_PROMPT = 1024, 40
THEIRS, OURS = "transformers", "use_fast_mamba"
PRODUCTS = "its matrix products alone"
"""Reading a prompt cannot be faster than the products of its projections, which are the same on all sides."""


def add_parser(benchmarks: Any) -> None:
    """Add `decode` to the things that can be measured."""
    add_benchmark(
        benchmarks,
        "decode",
        "prompts and 1-token steps of a 6 x 512 MambaForCausalLM, with and without use_fast_mamba",
        measure,
    )


def measure(settings: Settings) -> Report:
    """Measure the step after a prompt, and the prompt, for one sequence.

    Args:
        settings: Rounds, threads, sizes.
    """
    report = new_report("decode", settings)
    for vocabulary in VOCABULARIES[:1] if settings.quick else VOCABULARIES:
        _compare_steps(report, vocabulary)
    _compare_prompts(report)
    return report


def _twins(vocabulary: int, quick: bool) -> tuple[nn.Module, nn.Module]:
    """The same model on transformers' code and on this package's."""
    from transformers import MambaConfig, MambaForCausalLM

    from hf_audio_mamba.fast_mamba import use_fast_mamba

    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2} if quick else {"hidden_size": 512, "num_hidden_layers": 6}
    stock: nn.Module = MambaForCausalLM(MambaConfig(vocab_size=vocabulary, **size)).eval()
    return stock, use_fast_mamba(copy.deepcopy(stock))


def _compare_steps(report: Report, vocabulary: int) -> None:
    settings = report.settings
    stock, fast = _twins(vocabulary, settings.quick)
    tokens = torch.randint(vocabulary, (1, PROMPT + COMPARED_STEPS), generator=torch.Generator().manual_seed(0))
    name = f"1-token step, 6 x 512, vocabulary {vocabulary}" if not settings.quick else "1-token step, tiny"
    contestants = [Contestant(THEIRS, _step(stock, tokens)), Contestant(OURS, _step(fast, tokens))]
    case = measure_case(name, contestants, repeats=settings.repeats, shortest_s=settings.shortest_s)
    # Steps that are timed read different numbers of tokens on the two sides; these read the same ones.
    compared = {
        side: dataclasses.replace(case.samples[side], result=_logits(model, tokens))
        for side, model in ((THEIRS, stock), (OURS, fast))
    }
    report.add_case(Case(name, compared), reference=THEIRS)
    report.add_ratio(f"{name}, over transformers", case, THEIRS, OURS)


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


def _compare_prompts(report: Report) -> None:
    settings = report.settings
    vocabulary, length = VOCABULARIES[0], QUICK_PROMPT if settings.quick else LONG_PROMPT
    stock, fast = _twins(vocabulary, settings.quick)
    tokens = torch.randint(vocabulary, (1, length), generator=torch.Generator().manual_seed(0))
    name = f"prompt of {length} tokens, {'tiny' if settings.quick else '6 x 512'}, vocabulary {vocabulary}"
    contestants = [
        Contestant(THEIRS, _prompt(stock, tokens)),
        Contestant(OURS, _prompt(fast, tokens)),
        Contestant(PRODUCTS, _products(stock, length)),
    ]
    case = measure_case(name, contestants, repeats=settings.repeats, shortest_s=settings.shortest_s)
    report.add_case(case, reference=THEIRS)
    report.add_ratio(f"{name}, over transformers", case, THEIRS, OURS)
    report.add_ratio(f"{name}, over the floor of its matrix products", case, OURS, PRODUCTS)


def _prompt(model: nn.Module, tokens: Tensor) -> Callable[[], Tensor]:
    """Reads a prompt as `generate` does: into a cache, for the logits of the next token."""

    def call() -> Tensor:
        with torch.no_grad():
            logits: Tensor = model(input_ids=tokens, use_cache=True, logits_to_keep=1).logits
        return logits

    return call


def _products(model: nn.Module, length: int) -> Callable[[], None]:
    """The matrix products of all mixers' projections on a prompt of some length."""
    names = ("in_proj", "x_proj", "dt_proj", "out_proj")
    weights = [module.weight for name, module in model.named_modules() if name.rpartition(".")[2] in names]
    inputs = [torch.ones(length, weight.shape[1]) for weight in weights]

    def call() -> None:
        with torch.no_grad():
            for x, weight in zip(inputs, weights, strict=True):
                nn.functional.linear(x, weight)

    return call
