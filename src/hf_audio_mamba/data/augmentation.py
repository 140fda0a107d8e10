"""Random changes to log-mel features during training, each drawn from a generator that the caller seeds.

All functions take features of one clip, `(frames, bands)` float32, as the feature extractors make them: log-mel bands
first, optional chroma rows after them. Levels are logarithmic, in dB or any multiple of it. Either they are relative to
the loudest cell of the clip, from the floor (-80 dB by default) to 0 dB, or absolute, with a floor and no upper end;
`FeatureLayout` knows which.

Sources: SpecAugment, Park et al. 2019 (time and frequency masks; no time warping, which its authors found to
matter least); FilterAugment, Nam et al. 2022 (random filters; the piecewise linear kind). Mixing of two clips is in
`hf_audio_mamba.data.mixing`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_audio_mamba.data.augmentation_config import AugmentationConfig

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
        ceiling: Value of the clip's loudest cell, 0 dB, where levels are relative to it; infinite where they are
            absolute.
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


def augment(
    features: Features, layout: FeatureLayout, config: AugmentationConfig, generator: np.random.Generator
) -> Features:
    """Apply every change to a clip by itself: shift, filter, gain, noise, masks, feature noise, roll, in this order.

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
    _mask(changed, layout, config, generator)
    if config.feature_noise:
        _add_feature_noise(mel, layout, config.feature_noise, generator)
    if config.time_roll_frames:
        shift = generator.integers(-config.time_roll_frames, config.time_roll_frames + 1)
        changed = np.roll(changed, shift, axis=0)
    return changed


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
        if math.isfinite(layout.ceiling):
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


def _add_feature_noise(mel: Features, layout: FeatureLayout, strongest: float, generator: np.random.Generator) -> None:
    """Uniform noise on the features as they are, in place."""
    noise = generator.random(mel.shape, dtype=np.float32)
    noise *= np.float32(generator.uniform(0, strongest))
    mel += noise
    np.minimum(mel, layout.ceiling, out=mel)


def _mask(
    features: Features, layout: FeatureLayout, config: AugmentationConfig, generator: np.random.Generator
) -> None:
    """Time and frequency stripes, in place."""
    fill = features.mean(axis=0) if config.spec_augment_mean else layout.silence()
    frames, bands = len(features), layout.num_mel_bins
    longest = min(config.spec_augment_time_frames, frames) or int(config.spec_augment_time_fraction * frames)
    for _ in range(config.spec_augment_time_masks):
        stripe = _draw_stripe(frames, longest, generator)
        features[stripe] = fill
    for _ in range(config.spec_augment_frequency_masks):
        stripe = _draw_stripe(bands, min(config.spec_augment_frequency_bands, bands), generator)
        features[:, stripe] = fill[stripe]


def _draw_stripe(size: int, limit: int, generator: np.random.Generator) -> slice:
    width = int(generator.integers(limit + 1))
    start = int(generator.integers(size - width + 1))
    return slice(start, start + width)
