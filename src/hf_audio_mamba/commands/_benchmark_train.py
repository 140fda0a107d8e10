"""`hf-audio-mamba benchmark train`: training steps of a small MoMamba, against the same with transformers' mixers."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hf_audio_mamba.commands._benchmark_report import Report, Settings, add_benchmark, new_report
from hf_audio_mamba.commands._benchmark_stock import stock_copy_of_model
from hf_audio_mamba.commands._benchmark_timing import Contestant, measure_case
from hf_audio_mamba.models.momamba import MoMambaConfig, MoMambaForAudioClassification
from hf_audio_mamba.ops import scan_backend

BATCH, FRAMES, BANDS, CLASSES = 8, 128, 128, 10
QUICK_BATCH, QUICK_FRAMES = 2, 10


def add_parser(benchmarks: Any) -> None:
    """Add `train` to the things that can be measured."""
    add_benchmark(benchmarks, "train", "training steps of a small MoMamba against transformers' mixers", measure)


def measure(settings: Settings) -> Report:
    """Measure training steps: forward, backward and AdamW.

    The clips are short since transformers' backward is quadratic in their length. The learning rate is 0, which costs
    as much as any other and keeps the sides' parameters equal, so that their gradients can be compared.

    Args:
        settings: Rounds, threads, sizes.
    """
    report = new_report("train", settings)
    batch, frames = (QUICK_BATCH, QUICK_FRAMES) if settings.quick else (BATCH, FRAMES)
    torch.manual_seed(0)
    model = MoMambaForAudioClassification(
        MoMambaConfig(
            hidden_size=32 if settings.quick else 256,
            num_hidden_layers=2,
            num_mel_bins=BANDS,
            num_labels=CLASSES,
            use_cls_token=False,  # so that transformers' mixers can take the place of ours
            pooling="mean",
            hidden_dropout=0.0,
        )
    )
    inputs = {"input_values": torch.randn(batch, frames, BANDS), "labels": torch.arange(batch) % CLASSES}
    ours, torch_backend, theirs = "MoMamba", "MoMamba, torch backend", "MoMamba of transformers' mixers"
    contestants = [
        Contestant(ours, _step(model, inputs, "auto")),
        Contestant(torch_backend, _step(copy.deepcopy(model), inputs, "torch")),
        Contestant(theirs, _step(stock_copy_of_model(model), inputs, "auto"), slow=not settings.quick),
    ]
    case = measure_case(
        f"training step ({batch}, {frames}, {BANDS}), hidden size {model.config.hidden_size}, 2 blocks",
        contestants,
        repeats=settings.repeats,
        shortest_s=settings.shortest_s,
    )
    report.add_case(case, reference=theirs)
    for name in (torch_backend, theirs):
        report.add_ratio(f"training step of {name}", case, name, ours)
    return report


def _step(model: nn.Module, inputs: dict[str, Tensor], backend: str) -> Callable[[], list[Tensor]]:
    """A training step that returns the loss and the gradients."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

    def call() -> list[Tensor]:
        optimizer.zero_grad()
        with scan_backend(backend):
            loss: Tensor = model(**inputs).loss
            loss.backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
        return [loss.detach(), *(p.grad for _, p in sorted(model.named_parameters()) if p.grad is not None)]

    return call
