"""`hf-audio-mamba benchmark model`: six bidirectional blocks against an audio spectrogram transformer, same audio."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hf_audio_mamba.commands._benchmark_report import Report, Settings, add_benchmark, new_report
from hf_audio_mamba.commands._benchmark_stock import stock_copy_of_model
from hf_audio_mamba.commands._benchmark_timing import Contestant, measure_case
from hf_audio_mamba.models.momamba import MoMambaConfig, MoMambaModel
from hf_audio_mamba.ops import scan_backend

BANDS = 128
FRAMES, QUICK_FRAMES = 3000, 24  # 30 s at 100 frames a second


def add_parser(benchmarks: Any) -> None:
    """Add `model` to the things that can be measured."""
    add_benchmark(
        benchmarks,
        "model",
        "6 bidirectional blocks, d=512, against ASTForAudioClassification on the same 30 s",
        measure,
    )


def measure(settings: Settings) -> Report:
    """Measure forward passes in float32 and bfloat16, both sides in the same dtype, with random weights.

    Args:
        settings: Rounds, threads, sizes.
    """
    report = new_report("model", settings)
    frames = QUICK_FRAMES if settings.quick else FRAMES
    for dtype in (torch.float32, torch.bfloat16):
        _compare(report, frames, dtype)
    return report


def _momamba(quick: bool) -> nn.Module:
    config = MoMambaConfig(
        hidden_size=32 if quick else 512,
        num_hidden_layers=2 if quick else 6,
        num_mel_bins=BANDS,
        use_cls_token=False,  # so that transformers' mixers can take the place of ours
        pooling="mean",
    )
    model: nn.Module = MoMambaModel(config).eval()
    return model


def _ast(quick: bool, frames: int) -> nn.Module:
    from transformers import ASTConfig, ASTForAudioClassification

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = ASTConfig(max_length=frames, num_mel_bins=BANDS, **(small if quick else {}))
    model: nn.Module = ASTForAudioClassification(config).eval()
    return model


def _compare(report: Report, frames: int, dtype: torch.dtype) -> None:
    settings = report.settings
    torch.manual_seed(0)
    spectrogram = torch.randn(1, frames, BANDS).to(dtype)
    model = _momamba(settings.quick).to(dtype)
    stock = stock_copy_of_model(model)
    ast = _ast(settings.quick, frames).to(dtype)
    ours, theirs = "MoMambaModel", "ASTForAudioClassification"
    mixers = "MoMambaModel of transformers' mixers"
    contestants = [
        Contestant(ours, _pooled(model, spectrogram)),
        Contestant("MoMambaModel, torch backend", _pooled(model, spectrogram, "torch")),
        Contestant(mixers, _pooled(stock, spectrogram), slow=not settings.quick),
        Contestant(theirs, _without_result(ast, spectrogram)),
    ]
    precision = str(dtype).removeprefix("torch.")
    case = measure_case(
        f"{precision} (1, {frames}, {BANDS})", contestants, repeats=settings.repeats, shortest_s=settings.shortest_s
    )
    # Rounding to bfloat16 at different places keeps results from being comparable to three digits.
    report.add_case(case, reference=mixers if dtype == torch.float32 else None)
    report.add_ratio(f"bidirectional blocks against ASTForAudioClassification, {precision}", case, theirs, ours)


def _pooled(model: nn.Module, spectrogram: Tensor, backend: str = "auto") -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.no_grad(), scan_backend(backend):
            pooled: Tensor = model(spectrogram).pooler_output
            return pooled

    return call


def _without_result(model: nn.Module, spectrogram: Tensor) -> Callable[[], None]:
    def call() -> None:
        with torch.no_grad():
            model(spectrogram)

    return call
