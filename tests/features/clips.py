"""A clip for tests that need some audio."""

import numpy as np

from hf_audio_mamba.features.samples import Float32Array

RATE = 44100


def tone(seconds: float, *, rate: int = RATE, frequency: float = 440.0, seed: int = 0) -> Float32Array:
    """A tone over a little noise, within ±0.4."""
    time_s = np.arange(round(seconds * rate)) / rate
    noise = 0.01 * np.random.default_rng(seed).standard_normal(len(time_s))
    return (0.3 * np.sin(2 * np.pi * frequency * time_s) + noise).astype(np.float32)
