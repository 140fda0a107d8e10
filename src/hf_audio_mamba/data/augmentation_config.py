"""How strongly training clips are changed."""

import math
from dataclasses import dataclass, fields
from typing import Any

from hf_audio_mamba.errors import UsageError


@dataclass(frozen=True)
class AugmentationConfig:
    """How strongly training clips are changed; 0 turns a change off.

    Attributes:
        spec_augment_time_masks: Stripes over all bands that hide a stretch of time.
        spec_augment_time_fraction: Longest stretch, as a part of the clip's frames, in [0, 1].
        spec_augment_time_frames: Longest stretch in frames, which then counts instead of the fraction.
        spec_augment_frequency_masks: Groups of adjacent mel bands hidden over the whole clip.
        spec_augment_frequency_bands: Most bands in a group.
        spec_augment_mean: Stripes hold the mean of each band over the clip (Park et al. 2019, and HTS-AT, where a zero
            behind the batch norm is a band's mean), not silence.
        time_shift: Furthest shift to either side, as a part of the clip's frames, in [0, 1); silence moves
            in.
        time_roll_frames: Furthest circular shift to either side, in frames.
        gain_db: Largest gain to either side, in dB. Where features are relative to the clip's maximum, a gain
            does not model a louder recording (that changes nothing) but a clip whose sound stands higher or
            lower above the floor: the level is added, cut off at floor and 0 dB, and silence stays silence. Where
            levels are absolute, it is a louder or softer recording, cut off at the floor only.
        filter_db: Largest gain of a random smooth frequency response, in dB: another room, microphone or
            instrument. Relative levels are again relative to their own maximum.
        noise_db: Loudest background noise, in dB above the floor. Its level is drawn from the floor upwards, its
            colour at random, and its power is added: a softer note in the same room, or a poorer recording.
        feature_noise: Largest noise added to the features as they are, in their own unit: each clip draws a strength up
            to this, each mel cell adds a uniform draw from 0 to that strength (Audio Spectrogram Transformer; 0.1 on
            features of about unit deviation).
        mixup_alpha: Parameter of the Beta(alpha, alpha) distribution that weighs a clip against a second one. The clip
            itself keeps the larger weight.
        mixup_probability: Part of the clips that are mixed, in [0, 1].
        mixup_labels: Weigh labels like the clips. `False` keeps the label of the clip itself: the second one is noise
            (HTS-AT).
        mixup_power: Mix as waveforms do, adding powers weighed by the squares of the weights, not features.
        cutmix_alpha: Parameter of the Beta(alpha, alpha) distribution of the part of the plane of frames and bands that
            a clip keeps when a rectangle of a second one is pasted into it.
        cutmix_probability: Part of the clips that get a rectangle, in [0, 1]; no clip is both mixed and cut.
    """

    spec_augment_time_masks: int = 2
    spec_augment_time_fraction: float = 0.1
    spec_augment_time_frames: int = 0
    spec_augment_frequency_masks: int = 2
    spec_augment_frequency_bands: int = 12
    spec_augment_mean: bool = False
    time_shift: float = 0.1
    time_roll_frames: int = 0
    gain_db: float = 6.0
    filter_db: float = 0.0
    noise_db: float = 0.0
    feature_noise: float = 0.0
    mixup_alpha: float = 0.0
    mixup_probability: float = 0.5
    mixup_labels: bool = True
    mixup_power: bool = False
    cutmix_alpha: float = 0.0
    cutmix_probability: float = 0.5

    def __post_init__(self) -> None:
        for entry in fields(self):
            _check_value(entry.name, entry.type, getattr(self, entry.name))
        for name in ("spec_augment_time_fraction", "mixup_probability", "cutmix_probability"):
            if getattr(self, name) > 1:
                raise UsageError(f"{name} is {getattr(self, name)}, but is a part of a whole: at most 1")
        if self.time_shift >= 1:
            raise UsageError(f"time_shift is {self.time_shift}, but must be below 1, the length of the clip")
        if not self.mixes and (self.mixup_power or not self.mixup_labels):
            raise UsageError("mixup_power and mixup_labels say how clips are mixed: set mixup_alpha above 0 too")
        if self.mixup_rate + self.cutmix_rate > 1:
            raise UsageError(
                f"mixup_probability {self.mixup_probability} and cutmix_probability {self.cutmix_probability} come to "
                "more than 1, but a clip is either mixed or cut"
            )

    @classmethod
    def off(cls) -> "AugmentationConfig":
        """No change at all."""
        nothing: dict[str, Any] = {entry.name: 0 for entry in fields(cls) if entry.type is not bool}
        return cls(**nothing)

    @property
    def mixup_rate(self) -> float:
        """Part of the clips that are mixed."""
        return self.mixup_probability if self.mixup_alpha else 0.0

    @property
    def cutmix_rate(self) -> float:
        """Part of the clips that get a rectangle of another."""
        return self.cutmix_probability if self.cutmix_alpha else 0.0

    @property
    def mixes(self) -> bool:
        """Whether mixup is on."""
        return self.mixup_rate > 0

    @property
    def softens_labels(self) -> bool:
        """Whether labels become weights of classes."""
        return (self.mixes and self.mixup_labels) or self.cutmix_rate > 0


def _check_value(name: str, kind: Any, value: Any) -> None:
    if kind is bool:
        if not isinstance(value, bool):
            raise UsageError(f"{name} is {value!r}, but must be true or false")
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{name} is {value!r}, but must be a number")
    if kind is int and not isinstance(value, int):
        raise UsageError(f"{name} is {value}, but must be a whole number")
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{name} is {value}, but must be a finite number of at least 0")
