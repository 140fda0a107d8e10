"""Multi-label recordings with known answers: sounds of several classes, mixed within their split."""

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from hf_audio_mamba.data.audio_dataset import AudioDataset, Clip
from hf_audio_mamba.data.labels import LABEL_SEPARATOR
from hf_audio_mamba.errors import OutputError, UsageError
from hf_audio_mamba.features import as_waveform

_PEAK = 0.9


@dataclass(frozen=True)
class MixtureSettings:
    """How sounds are mixed.

    Attributes:
        seconds: Length of a mixture.
        sampling_rate: In Hz.
        sounds: Fewest and most sounds in a mixture, each of another class.
        level_db: A sound is up to this many dB softer than its recording normalised to a root mean square of 0.1.
        seed: Of every draw.

    Raises:
        UsageError: If a value is out of range.
    """

    seconds: float = 10.0
    sampling_rate: int = 32000
    sounds: tuple[int, int] = (2, 3)
    level_db: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise UsageError(f"seconds is {self.seconds}, but must be above 0")
        if not 1 <= self.sounds[0] <= self.sounds[1]:
            raise UsageError(f"sounds is {self.sounds}, but must be (fewest, most) with at least one sound")
        if self.level_db < 0:
            raise UsageError(f"level_db is {self.level_db}, but must be at least 0")


def write_mixtures(
    dataset: AudioDataset,
    output_dir: str | os.PathLike[str],
    counts: Mapping[str, int],
    settings: MixtureSettings | None = None,
) -> None:
    """Mix recordings of each split of a data set; splits never meet.

    Every mixture holds some sounds of different classes, each at a random place (cut where it would run over the end)
    and level. It is labelled with all of their classes.

    Args:
        dataset: Single-label recordings.
        output_dir: New or empty folder; it gets a folder for each split, with FLAC files and a `metadata.csv` of
            `file_name` and `label` (classes separated by `;`), as `load_audio_folder` reads it.
        counts: Mixtures for each split.
        settings: How to mix.

    Raises:
        UsageError: If the data set is not single-label, or lacks a split or classes for so many sounds.
        OutputError: If the folder is not empty or cannot be written.
        AudioError: If a recording cannot be read.
    """
    settings = settings or MixtureSettings()
    folder = Path(output_dir)
    if dataset.problem_type != "single_label_classification":
        raise UsageError(f"{dataset.name} is no single-label data set; mixtures are labelled with one class a sound")
    if folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty; name a new folder")
    for number, (split, count) in enumerate(sorted(counts.items())):
        by_class = _by_class(dataset, split, settings)
        generator = np.random.default_rng((settings.seed, number))
        target = folder / split
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{target} cannot be made: {error.strerror or error}") from error
        rows = [("file_name", "label")]
        for index in range(count):
            mixture, names = _mix(by_class, settings, generator)
            name = f"{index:05d}.flac"
            soundfile.write(target / name, mixture, settings.sampling_rate, subtype="PCM_16")
            rows.append((name, LABEL_SEPARATOR.join(names)))
        with (target / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


def _by_class(dataset: AudioDataset, split: str, settings: MixtureSettings) -> dict[str, list[Clip]]:
    if split not in dataset.splits:
        raise UsageError(f"{dataset.name} has no split {split!r}; it has {', '.join(dataset.splits)}")
    found: dict[str, list[Clip]] = {}
    for clip in dataset.splits[split]:
        found.setdefault(str(clip.label), []).append(clip)
    if len(found) < settings.sounds[1]:
        raise UsageError(f"{dataset.name}: {split} has {len(found)} classes, too few for {settings.sounds[1]} sounds")
    return found


def _mix(
    by_class: dict[str, list[Clip]], settings: MixtureSettings, generator: np.random.Generator
) -> tuple[NDArray[np.float32], list[str]]:
    """One mixture `(samples,)` and the names of its classes."""
    length = round(settings.seconds * settings.sampling_rate)
    mixture = np.zeros(length, dtype=np.float32)
    fewest, most = settings.sounds
    names = sorted(generator.choice(sorted(by_class), size=int(generator.integers(fewest, most + 1)), replace=False))
    for name in names:
        clips = by_class[name]
        clip = clips[int(generator.integers(len(clips)))]
        audio = clip.path if clip.path is not None else clip.content()
        samples = as_waveform(audio, sampling_rate=settings.sampling_rate, name=clip.name)[:length]
        samples = samples * (0.1 / max(float(np.sqrt(np.mean(samples**2))), 1e-6))
        # At least half of a sound is heard, or as much of it as fits.
        start = int(generator.integers(max(1, length - len(samples) // 2)))
        gain = 10 ** (-generator.uniform(0, settings.level_db) / 20)
        heard = samples[: length - start]
        mixture[start : start + len(heard)] += gain * heard
    peak = float(np.abs(mixture).max())
    if peak > _PEAK:
        mixture *= _PEAK / peak
    return mixture, [str(name) for name in names]


__all__ = ["MixtureSettings", "write_mixtures"]
