"""Random changes to log-mel features during training, each drawn from a generator that the caller seeds.

All functions take features of one clip, `(frames, bands)` float32, as `MoMambaFeatureExtractor` makes them:
log-mel bands first, optional chroma rows after them. Levels are dB relative to the loudest cell of the clip,
from the floor (-80 dB by default) to 0 dB, either as such or scaled to [-1, 1]; `FeatureLayout` knows which.

Sources: SpecAugment, Park et al. 2019 (time and frequency masks; no time warping, which its authors found to
matter least); FilterAugment, Nam et al. 2022 (random filters; the piecewise linear kind); mixup, Zhang et al.
2018.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from hf_audio_mamba.errors import UsageError

Features = NDArray[np.float32]

# Background noise: how far its spectrum strays from flat, and the standard deviation of its cells (about that of a
# power averaged over four independent bins).
_NOISE_COLOUR_DB = 10.0
_NOISE_RIPPLE_DB = 2.3


@dataclass(frozen=True)
class FeatureLayout:
    """Where the log-mel bands are in a feature matrix and what their numbers mean.

    Attributes:
        num_mel_bins: The first so many of the bands are log-mel; the rest is chroma, which no change of level
            touches.
        feature_size: All bands.
        floor: Value of silence in the mel bands.
        ceiling: Value of the clip's loudest cell, 0 dB.
        units_per_db: Step of the features for one dB; 0 where that is not known, which turns changes of level off.
        chroma_floor: Value of silence in the chroma bands.
    """

    num_mel_bins: int
    feature_size: int
    floor: float = -1.0
    ceiling: float = 1.0
    units_per_db: float = 1 / 40
    chroma_floor: float = -1.0

    def silence(self) -> Features:
        """One frame of silence, `(bands,)`."""
        frame = np.full(self.feature_size, self.chroma_floor, dtype=np.float32)
        frame[: self.num_mel_bins] = self.floor
        return frame


@dataclass(frozen=True)
class AugmentationConfig:
    """How strongly training clips are changed; 0 turns a change off.

    Attributes:
        spec_augment_time_masks: Stretches of silence laid over a clip.
        spec_augment_time_fraction: Longest stretch, as a part of the clip's frames, in [0, 1].
        spec_augment_frequency_masks: Groups of adjacent mel bands silenced over the whole clip.
        spec_augment_frequency_bands: Most bands in a group.
        time_shift: Furthest shift to either side, as a part of the clip's frames, in [0, 1); silence moves
            in.
        gain_db: Largest gain to either side, in dB. Features are relative to the clip's maximum, so a gain
            does not model a louder recording (that changes nothing) but a clip whose sound stands higher or
            lower above the floor: the level is added, cut off at floor and 0 dB, and silence stays silence.
        filter_db: Largest gain of a random smooth frequency response, in dB: another room, microphone or
            instrument. The result is again relative to its own maximum.
        noise_db: Loudest background noise, in dB above the floor. Its level is drawn from the floor upwards, its
            colour at random, and its power is added: a softer note in the same room, or a poorer recording.
        mixup_alpha: Parameter of the Beta(alpha, alpha) distribution that weighs a clip against a second one.
        mixup_probability: Part of the clips that are mixed, in [0, 1].
    """

    spec_augment_time_masks: int = 2
    spec_augment_time_fraction: float = 0.1
    spec_augment_frequency_masks: int = 2
    spec_augment_frequency_bands: int = 12
    time_shift: float = 0.1
    gain_db: float = 6.0
    filter_db: float = 0.0
    noise_db: float = 0.0
    mixup_alpha: float = 0.0
    mixup_probability: float = 0.5

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.type is int and not isinstance(value, int):
                raise UsageError(f"{entry.name} is {value}, but must be a whole number")
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{entry.name} is {value}, but must be a finite number of at least 0")
        for name in ("spec_augment_time_fraction", "mixup_probability"):
            if getattr(self, name) > 1:
                raise UsageError(f"{name} is {getattr(self, name)}, but is a part of a whole: at most 1")
        if self.time_shift >= 1:
            raise UsageError(f"time_shift is {self.time_shift}, but must be below 1, the length of the clip")

    @property
    def mixes(self) -> bool:
        """Whether mixup is on, so that labels become weights."""
        return self.mixup_alpha > 0 and self.mixup_probability > 0


def augment(
    features: Features, layout: FeatureLayout, config: AugmentationConfig, generator: np.random.Generator
) -> Features:
    """Apply every change except mixup, in the order shift, filter, gain, noise, masks.

    Args:
        features: `(frames, bands)`; left as it is.
        layout: Meaning of the bands.
        config: Which changes, how strong.
        generator: All draws come from it, and their number depends on `config` alone.

    Returns:
        New features of the same shape.
    """
    changed = features.copy()
    if config.time_shift:
        changed = _shift(changed, layout, config.time_shift, generator)
    mel = changed[:, : layout.num_mel_bins]
    if layout.units_per_db and (config.filter_db or config.gain_db):
        _change_level(mel, layout, config, generator)
    if layout.units_per_db and config.noise_db:
        _add_noise(mel, layout, config.noise_db, generator)
    _mask_time(changed, layout, config, generator)
    _mask_frequency(changed, layout, config, generator)
    return changed


def mix(
    first: Features, second: Features, weight: float, layout: FeatureLayout, generator: np.random.Generator
) -> Features:
    """Mixup: `weight * first + (1 - weight) * second`, cell by cell.

    The result is as long as `first`. A longer second clip is cut at a random place; a shorter one is set at a
    random place in silence.

    Args:
        first: `(frames, bands)`.
        second: `(other_frames, bands)`.
        weight: Of the first clip, in [0, 1].
        layout: Meaning of the bands.
        generator: Draws the place.
    """
    frames = len(first)
    slack = abs(len(second) - frames)
    start = int(generator.integers(slack + 1))
    if len(second) >= frames:
        partner = second[start : start + frames]
    else:
        partner = np.tile(layout.silence(), (frames, 1))
        partner[start : start + len(second)] = second
    return np.float32(weight) * first + np.float32(1 - weight) * partner


def _shift(features: Features, layout: FeatureLayout, fraction: float, generator: np.random.Generator) -> Features:
    limit = int(fraction * len(features))
    shift = int(generator.integers(-limit, limit + 1))
    shifted = np.empty_like(features)
    if shift >= 0:
        shifted[:shift] = layout.silence()
        shifted[shift:] = features[: len(features) - shift]
    else:
        shifted[shift:] = layout.silence()
        shifted[:shift] = features[-shift:]
    return shifted


def _change_level(
    mel: Features, layout: FeatureLayout, config: AugmentationConfig, generator: np.random.Generator
) -> None:
    """Filter and gain, in place."""
    response = _draw_response(config.filter_db, layout, generator) if config.filter_db else None
    gain = generator.uniform(-config.gain_db, config.gain_db) * layout.units_per_db
    silent = mel <= layout.floor
    if silent.all():
        return
    # Minus infinity stays where it is, whatever is added, and ends at the floor.
    np.copyto(mel, -np.inf, where=silent)
    if response is not None:
        mel += response
        # As the extractor would measure it: relative to the loudest cell of the filtered clip.
        gain += layout.ceiling - mel.max()
    mel += np.float32(gain)
    np.clip(mel, layout.floor, layout.ceiling, out=mel)


def _add_noise(mel: Features, layout: FeatureLayout, loudest_db: float, generator: np.random.Generator) -> None:
    """Background noise, in place: levels in dB are turned into powers, added, and turned back."""
    level = generator.uniform(0, loudest_db) * layout.units_per_db
    noise = layout.floor + level + _draw_response(_NOISE_COLOUR_DB, layout, generator)
    ripple = generator.standard_normal(mel.shape, dtype=np.float32)
    ripple *= np.float32(_NOISE_RIPPLE_DB * layout.units_per_db)
    ripple += noise
    # Per decibel the natural logarithm of a power grows by ln(10) / 10.
    scale = np.float32(math.log(10) / 10 / layout.units_per_db)
    np.logaddexp(mel * scale, ripple * scale, out=mel)
    mel /= scale
    np.clip(mel, layout.floor, layout.ceiling, out=mel)


def _draw_response(strength_db: float, layout: FeatureLayout, generator: np.random.Generator) -> Features:
    """A frequency response `(mel bands,)`: straight lines between 3 to 6 nodes at random bands."""
    last_band = layout.num_mel_bins - 1
    draws = generator.random(12)
    nodes = 3 + int(draws[0] * 4)
    inner = np.sort(draws[1 : nodes - 1]) * last_band
    gains = (2 * draws[6 : 6 + nodes] - 1) * strength_db * layout.units_per_db
    response = np.interp(np.arange(layout.num_mel_bins), [0.0, *inner, last_band], gains)
    return response.astype(np.float32)


def _mask_time(
    features: Features, layout: FeatureLayout, config: AugmentationConfig, generator: np.random.Generator
) -> None:
    limit = int(config.spec_augment_time_fraction * len(features))
    for _ in range(config.spec_augment_time_masks):
        width = int(generator.integers(limit + 1))
        start = int(generator.integers(len(features) - width + 1))
        features[start : start + width] = layout.silence()


def _mask_frequency(
    features: Features, layout: FeatureLayout, config: AugmentationConfig, generator: np.random.Generator
) -> None:
    limit = min(config.spec_augment_frequency_bands, layout.num_mel_bins)
    for _ in range(config.spec_augment_frequency_masks):
        width = int(generator.integers(limit + 1))
        start = int(generator.integers(layout.num_mel_bins - width + 1))
        features[:, start : start + width] = layout.floor
