"""`hf-audio-mamba benchmark features`: log-mel spectrograms against librosa's."""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from hf_audio_mamba._optional import require
from hf_audio_mamba.commands._benchmark_report import add_json_option, positive_int, show
from hf_audio_mamba.features.samples import Float32Array
from hf_audio_mamba.models.momamba.feature_extraction_momamba import MoMambaFeatureExtractor

PARITY_DB = 0.01


def interleaved_medians(
    contestants: dict[str, Callable[[Any], object]], inputs: Sequence[Any], repeats: int
) -> dict[str, float]:
    """Median time in seconds of each contestant for one input.

    The contestants take turns on every input, so that whatever else the machine does meets all of them alike. Each is
    called once before, which leaves out compilation and the filling of caches.

    Args:
        contestants: What to call with one input, by name.
        inputs: Inputs.
        repeats: Rounds over all inputs.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for call in contestants.values():
        call(inputs[0])
    for _ in range(repeats):
        for item in inputs:
            for name, call in contestants.items():
                start = time.perf_counter()
                call(item)
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


@dataclass(frozen=True)
class FeatureTimes:
    """Result of `benchmark features`.

    Attributes:
        clips: Number of clips.
        clip_seconds: Length of a clip in seconds.
        threads: Threads that each library may use.
        librosa_seconds: Median time of librosa for a clip in seconds.
        log_mel_seconds: The same for `features.LogMel`.
        extractor_seconds: The same for `MoMambaFeatureExtractor`, with its checks, normalisation and mask.
        speedup: librosa's time over LogMel's.
        extractor_speedup: librosa's time over the extractor's.
        largest_difference_db: Between librosa and LogMel over all clips, in dB.
    """

    clips: int
    clip_seconds: float
    threads: int
    librosa_seconds: float
    log_mel_seconds: float
    extractor_seconds: float
    speedup: float
    extractor_speedup: float
    largest_difference_db: float


def measure_features(*, clips: int, clip_seconds: float, threads: int, repeats: int) -> FeatureTimes:
    """Compare log-mel spectrograms with librosa's, in speed and in values.

    Args:
        clips: Number of generated clips.
        clip_seconds: Length of a clip in seconds.
        threads: Threads for torch and for librosa's linear algebra.
        repeats: Rounds over all clips.

    Raises:
        MissingExtraError: If librosa or threadpoolctl is not installed.
    """
    librosa = require("librosa", extra="dev", purpose="the comparison with librosa")
    threadpoolctl = require("threadpoolctl", extra="dev", purpose="the comparison with librosa")
    extractor = MoMambaFeatureExtractor()
    rate = extractor.sampling_rate
    log_mel = extractor.log_mel

    def with_librosa(clip: Float32Array) -> Float32Array:
        mel = librosa.feature.melspectrogram(
            y=clip, sr=rate, n_fft=extractor.n_fft, hop_length=extractor.hop_length, n_mels=extractor.num_mel_bins
        )
        db: Float32Array = librosa.power_to_db(mel, ref=np.max)
        return db.T

    contestants: dict[str, Callable[[Any], object]] = {
        "librosa": with_librosa,
        "log_mel": lambda clip: log_mel(torch.from_numpy(clip)),
        "extractor": lambda clip: extractor(clip, sampling_rate=rate),
    }
    waveforms = [_clip(seed, round(clip_seconds * rate), rate) for seed in range(clips)]
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpoolctl.threadpool_limits(limits=threads):
            medians = interleaved_medians(contestants, waveforms, repeats)
            difference = max(
                float(np.abs(with_librosa(clip) - log_mel(torch.from_numpy(clip)).numpy()).max()) for clip in waveforms
            )
    finally:
        torch.set_num_threads(threads_before)
    return FeatureTimes(
        clips=clips,
        clip_seconds=clip_seconds,
        threads=threads,
        librosa_seconds=medians["librosa"],
        log_mel_seconds=medians["log_mel"],
        extractor_seconds=medians["extractor"],
        speedup=medians["librosa"] / medians["log_mel"],
        extractor_speedup=medians["librosa"] / medians["extractor"],
        largest_difference_db=difference,
    )


def add_parser(benchmarks: Any) -> None:
    """Add `features` to the things that can be measured."""
    parser = benchmarks.add_parser("features", help="log-mel spectrograms against librosa's")
    parser.add_argument("--clips", type=positive_int, default=64, help="number of generated clips (default 64)")
    parser.add_argument("--seconds", type=_positive_float, default=30.0, help="length of a clip (default 30)")
    parser.add_argument("--threads", type=positive_int, default=1, help="threads for each library (default 1)")
    parser.add_argument("--repeats", type=positive_int, default=3, help="rounds over all clips (default 3)")
    add_json_option(parser)
    parser.set_defaults(measure=_run_features)


def _run_features(options: argparse.Namespace) -> int:
    times = measure_features(
        clips=options.clips, clip_seconds=options.seconds, threads=options.threads, repeats=options.repeats
    )
    show(_describe(times), asdict(times), options.json)
    return 0 if times.largest_difference_db <= PARITY_DB else 1


def _describe(times: FeatureTimes) -> str:
    rows = [
        ("librosa", times.librosa_seconds, 1.0),
        ("LogMel", times.log_mel_seconds, times.speedup),
        ("MoMambaFeatureExtractor", times.extractor_seconds, times.extractor_speedup),
    ]
    lines = [f"Log-mel spectrograms of {times.clips} clips of {times.clip_seconds:g} s, {times.threads} thread(s)"]
    lines += [
        f"  {name:<24}{1000 * seconds:8.1f} ms a clip {times.clip_seconds / seconds:8.0f} x real time"
        f" {ratio:6.1f} x librosa"
        for name, seconds, ratio in rows
    ]
    verdict = "equal" if times.largest_difference_db <= PARITY_DB else "DIFFERENT"
    lines.append(f"  parity: {verdict}, largest difference {times.largest_difference_db:.2g} dB (limit {PARITY_DB:g})")
    return "\n".join(lines)


def _clip(seed: int, samples: int, rate: int) -> Float32Array:
    """Three decaying tones over noise."""
    generator = np.random.default_rng(seed)
    time_s = np.arange(samples) / rate
    clip = 0.01 * generator.standard_normal(samples)
    for frequency in generator.uniform(60, 6000, size=3):
        clip += 0.2 * np.sin(2 * np.pi * frequency * time_s) * np.exp(-generator.uniform(0, 2) * time_s)
    return clip.astype(np.float32)


def _positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, but is {text}")
    return value
