"""Two training clips made into one: mixup, of features or of powers, and CutMix.

All functions take the features of two clips, `(frames, bands)` and `(other_frames, bands)`. The result is as long as
the first one; a longer second clip is cut at a random place, a shorter one is set at a random place in silence.

Sources: mixup, Zhang et al. 2018; CutMix, Yun et al. 2019.
"""

import math

import numpy as np

from hf_audio_mamba.data.augmentation import FeatureLayout, Features


def mix(
    first: Features, second: Features, weight: float, layout: FeatureLayout, generator: np.random.Generator
) -> Features:
    """Mixup of features: `weight * first + (1 - weight) * second`, cell by cell.

    Args:
        first: `(frames, bands)`.
        second: `(other_frames, bands)`.
        weight: Of the first clip, in [0, 1].
        layout: Meaning of the bands.
        generator: Draws the place.
    """
    partner = _fitted(second, len(first), layout, generator)
    return np.float32(weight) * first + np.float32(1 - weight) * partner


def mix_powers(
    first: Features, second: Features, weight: float, layout: FeatureLayout, generator: np.random.Generator
) -> Features:
    """Mixup as of waveforms: the powers are added, weighed by `weight ** 2` and `(1 - weight) ** 2`.

    That is what the mel bands of `weight * first + (1 - weight) * second` of two independent waveforms are on average;
    what is missing is their interference, which has mean 0. Relative levels are again relative to their own maximum.
    Chroma rows are mixed as by `mix`.

    Args:
        first: `(frames, bands)`.
        second: `(other_frames, bands)`.
        weight: Of the first waveform, in [0, 1].
        layout: Meaning of the bands; `units_per_db` must not be 0.
        generator: Draws the place.
    """
    partner = _fitted(second, len(first), layout, generator)
    mixed = np.float32(weight) * first + np.float32(1 - weight) * partner
    mel = slice(0, layout.num_mel_bins)
    with np.errstate(divide="ignore"):
        gains = 20 * np.log10([weight, 1 - weight]) * layout.units_per_db
    # Per decibel the natural logarithm of a power grows by ln(10) / 10.
    scale = math.log(10) / 10 / layout.units_per_db
    logs = [
        np.where(clip[:, mel] <= layout.floor, -np.inf, (clip[:, mel] + gain) * scale)
        for clip, gain in zip((first, partner), gains, strict=True)
    ]
    levels = np.logaddexp(*logs) / scale
    loudest = levels.max()
    if math.isfinite(layout.ceiling) and math.isfinite(loudest):
        levels += layout.ceiling - loudest
    mixed[:, mel] = np.clip(levels, layout.floor, layout.ceiling)
    return mixed


def cutmix(
    first: Features, second: Features, kept: float, layout: FeatureLayout, generator: np.random.Generator
) -> tuple[Features, float]:
    """CutMix on the plane of frames and bands: a rectangle of the second clip replaces that of the first.

    The rectangle has the proportions of the plane and its centre anywhere in it; what sticks out is cut off.

    Args:
        first: `(frames, bands)`.
        second: `(other_frames, bands)`.
        kept: Part of the plane that the first clip is to keep, in [0, 1].
        layout: Meaning of the bands.
        generator: Draws the places.

    Returns:
        The new features and the part of their area that is the first clip's: its weight in the label.
    """
    partner = _fitted(second, len(first), layout, generator)
    side = math.sqrt(1 - kept)
    frames, bands = (_span(size, int(size * side), generator) for size in first.shape)
    pasted = first.copy()
    pasted[frames, bands] = partner[frames, bands]
    area = (frames.stop - frames.start) * (bands.stop - bands.start)
    return pasted, 1 - area / first.size


def _span(size: int, width: int, generator: np.random.Generator) -> slice:
    start = int(generator.integers(size)) - width // 2
    return slice(max(start, 0), min(start + width, size))


def _fitted(features: Features, frames: int, layout: FeatureLayout, generator: np.random.Generator) -> Features:
    slack = abs(len(features) - frames)
    start = int(generator.integers(slack + 1))
    if len(features) >= frames:
        return features[start : start + frames]
    fitted = np.tile(layout.silence(), (frames, 1))
    fitted[start : start + len(features)] = features
    return fitted
