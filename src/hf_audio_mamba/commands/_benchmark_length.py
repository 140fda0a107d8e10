"""`hf-audio-mamba benchmark length`: what a clip of 10, 30 and 120 s costs audio taggers, in time and memory.

Each model hears the whole clip: AST and AuM at once, AudioMamba and HTS-AT in windows of 10 s. HTS-AT is the audio
encoder of `ClapAudioModel` in transformers, as published and at the size of AudioMamba Nano. Weights are random.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from hf_audio_mamba.commands._benchmark_child import peak_mebibytes_of
from hf_audio_mamba.commands._benchmark_report import (
    MemoryRow,
    Report,
    Settings,
    add_benchmark,
    new_report,
)
from hf_audio_mamba.commands._benchmark_timing import Contestant, measure_case
from hf_audio_mamba.errors import HFAudioMambaError

SECONDS = (10, 30, 120)
LABELS = 527
FRAMES_PER_SECOND = 100
NANO, HTSAT_SMALL = "AudioMamba Nano (5.2 M)", "HTS-AT (5.2 M)"
TINY, HTSAT = "AudioMamba Tiny (40 M)", "HTS-AT (31 M)"
AUM, AST = "AuM tiny (6.4 M)", "AST (86 M)"
NAMES = (NANO, HTSAT_SMALL, TINY, HTSAT, AUM, AST)
# glibc keeps freed blocks of up to 32 MiB unless told not to: what the warm-up has used would not count.
_FREEING = {"MALLOC_MMAP_THRESHOLD_": "100000", "MALLOC_TRIM_THRESHOLD_": "100000"}
_SLOW_S = 60
"""Seconds of audio beyond which the models that hear a clip at once get a single round."""


def add_parser(benchmarks: Any) -> None:
    """Add `length` to the things that can be measured."""
    add_benchmark(benchmarks, "length", "time and memory of audio taggers for 10, 30 and 120 s", measure, draw=draw)


def measure(settings: Settings) -> Report:
    """Measure forward passes of one clip and the memory that they take.

    Args:
        settings: Rounds, threads, sizes.
    """
    report = new_report("length", settings)
    for seconds in (1,) if settings.quick else SECONDS:
        torch.manual_seed(0)
        contestants = [
            Contestant(name, model_call(name, seconds, quick=settings.quick), slow=name == AST and seconds > _SLOW_S)
            for name in NAMES
        ]
        case = measure_case(f"{seconds} s", contestants, repeats=settings.repeats, shortest_s=settings.shortest_s)
        report.add_case(case)
        for theirs, ours in ((HTSAT_SMALL, NANO), (HTSAT, TINY), (AST, TINY)):
            report.add_ratio(f"CPU time of {theirs} over {ours}, {seconds} s", case, theirs, ours)
        for name in NAMES:
            extra = _extra_mebibytes(name, seconds, settings)
            report.memory.append(MemoryRow(f"memory of a forward pass of {seconds} s", name, extra))
    return report


def draw(report: Report) -> Any:
    """The figure of `--plot`: time and memory over the length of the clip."""
    from hf_audio_mamba.plots.cost_by_length import draw_cost_by_length

    lengths = [float(case.removesuffix(" s")) for case in dict.fromkeys(row.case for row in report.rows)]
    times = {name: [row.cpu_ms / 1000 for row in report.rows if row.contestant == name] for name in NAMES}
    memory = {name: [row.extra_mib for row in report.memory if row.contestant == name] for name in NAMES}
    return draw_cost_by_length(lengths, times, memory)


def model_call(name: str, seconds: int, *, quick: bool) -> Callable[[], None]:
    """A forward pass of a model on one clip of random features.

    Args:
        name: One of `NAMES`.
        seconds: Length of the clip.
        quick: Whether to build a model of a few parameters in place of the one named.
    """
    from hf_audio_mamba.models.audio_mamba import AudioMambaConfig
    from hf_audio_mamba.models.aum import AuMConfig
    from hf_audio_mamba.models.htsat import HTSATConfig

    frames = seconds * FRAMES_PER_SECOND
    config: Any
    if name in (NANO, TINY):
        width, depths = (40, [2, 2, 2, 2]) if name == NANO else (96, [2, 2, 9, 2])
        config = AudioMambaConfig(embed_dim=8 if quick else width, depths=depths, num_labels=LABELS)
    elif name == HTSAT_SMALL:
        config = HTSATConfig(embed_dim=40, depths=[2, 2, 4, 2], num_attention_heads=[2, 4, 8, 16], num_labels=LABELS)
    elif name == HTSAT:
        config = HTSATConfig(embed_dim=32 if quick else 96, num_labels=LABELS)
    elif name == AUM:
        frames += -frames % 16
        config = AuMConfig(hidden_size=192, num_hidden_layers=2 if quick else 24, max_length=frames, num_labels=LABELS)
    else:
        return _call(_ast(frames, quick=quick), torch.randn(1, frames, 128))
    from transformers import AutoModelForAudioClassification

    model = AutoModelForAudioClassification.from_config(config).eval()
    return _call(model, torch.randn(1, frames, config.num_mel_bins))


def _ast(frames: int, *, quick: bool) -> nn.Module:
    from transformers import ASTConfig, ASTForAudioClassification

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = ASTConfig(max_length=frames, num_mel_bins=128, num_labels=LABELS, **(small if quick else {}))
    model: nn.Module = ASTForAudioClassification(config).eval()
    return model


def _call(model: nn.Module, features: torch.Tensor) -> Callable[[], None]:
    def call() -> None:
        with torch.no_grad():
            model(features)

    return call


def _extra_mebibytes(name: str, seconds: int, settings: Settings) -> float | None:
    """Memory of a forward pass beyond the model and its input, in a fresh process after a pass of one second."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, name, str(seconds), str(int(settings.quick))],
        env=os.environ | {"OMP_NUM_THREADS": str(settings.threads)} | _FREEING,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise HFAudioMambaError(f"measuring the memory of {name} failed: {done.stderr.strip()[-2000:]}")
    extra: float | None = json.loads(done.stdout.splitlines()[-1])
    return extra


def _main(argv: Sequence[str]) -> None:
    name, seconds, quick = argv[0], int(argv[1]), argv[2] == "1"
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model_call(name, 1, quick=quick)()  # compiles kernels and loads libraries
    print(json.dumps(peak_mebibytes_of(model_call(name, seconds, quick=quick))))


if __name__ == "__main__":
    _main(sys.argv[1:])
