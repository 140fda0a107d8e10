"""Instruments made of sums of partials, for the synthetic notes.

Additive synthesis: a note is a sum of sinusoids whose levels and decays make the timbre (Risset & Mathews
1969). Each recipe is drawn anew for every clip, so that two clips of one family sound like two instruments of
that family.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

FAMILIES = ("struck", "blown")


@dataclass(frozen=True)
class Timbre:
    """How an instrument sounds, whatever note it plays.

    Attributes:
        ratios: Frequency of each partial relative to the fundamental, `(partials,)`.
        levels: Amplitude of each partial, `(partials,)`, the loudest 1.
        decays: How fast each partial dies away, in 1/s, `(partials,)`; zeros for a sustained sound.
        attack_s: Rise time in s.
        release_s: Fall time after the note's end, in s.
        vibrato_cents: Depth of the vibrato to either side.
        vibrato_hz: Its rate.
        breath: Level of band-limited noise relative to the tone.
    """

    ratios: Samples
    levels: Samples
    decays: Samples
    attack_s: float
    release_s: float
    vibrato_cents: float
    vibrato_hz: float
    breath: float


def draw_timbre(family: str, generator: np.random.Generator) -> Timbre:
    """An instrument of a family.

    Args:
        family: `struck` (plucked strings, mallets, bells: a fast attack, then every partial decays, high ones
            sooner) or `blown` (flutes, clarinets, brass, bowed strings: sustained, often with vibrato).
        generator: Source of the draws.
    """
    return _struck(generator) if family == "struck" else _blown(generator)


def _struck(generator: np.random.Generator) -> Timbre:
    number = np.arange(1, int(generator.integers(4, 15)), dtype=np.float32)
    # Stiff strings: partials above the harmonic series; bells and bars further so.
    ratios = number * np.sqrt(1 + generator.uniform(0, 0.004) * number**2)
    if generator.random() < 0.3:
        ratios = np.concatenate([ratios[:1], ratios[1:] * generator.uniform(1.3, 1.5)])
    position = generator.uniform(0.1, 0.5)
    levels = np.abs(np.sin(np.pi * number * position)) * number ** -generator.uniform(0.4, 1.4)
    return Timbre(
        ratios=ratios.astype(np.float32),
        levels=_normalized(levels),
        decays=(generator.uniform(2, 9) * (1 + generator.uniform(0.1, 0.5) * (number - 1))).astype(np.float32),
        attack_s=generator.uniform(0.002, 0.008),
        release_s=generator.uniform(0.02, 0.08),
        vibrato_cents=0.0,
        vibrato_hz=0.0,
        breath=generator.uniform(0, 0.02),
    )


def _blown(generator: np.random.Generator) -> Timbre:
    number = np.arange(1, int(generator.integers(3, 15)), dtype=np.float32)
    levels = number ** -generator.uniform(0.5, 2.0)
    if generator.random() < 0.4:
        # A closed cylinder, as the clarinet's: even harmonics are weak.
        levels = np.where(number % 2 == 0, levels * generator.uniform(0.02, 0.2), levels)
    return Timbre(
        ratios=number,
        levels=_normalized(levels),
        decays=np.zeros(len(number), dtype=np.float32),
        attack_s=generator.uniform(0.015, 0.05),
        release_s=generator.uniform(0.02, 0.06),
        vibrato_cents=generator.uniform(0, 25) * float(generator.random() < 0.6),
        vibrato_hz=generator.uniform(4, 7),
        breath=generator.uniform(0, 0.08),
    )


def _normalized(levels: NDArray[np.floating]) -> Samples:
    return np.asarray(levels / levels.max(), dtype=np.float32)


def play(
    timbre: Timbre, frequency_hz: float, seconds: float, sampling_rate: int, generator: np.random.Generator
) -> Samples:
    """One note, with its release, `(samples,)`; its loudest partials have amplitude 1.

    Partials above 90 % of half the sampling rate are left out.

    Args:
        timbre: The instrument.
        frequency_hz: Fundamental.
        seconds: From onset to release.
        sampling_rate: In Hz.
        generator: Draws phases and noise.
    """
    time = np.arange(int((seconds + timbre.release_s) * sampling_rate), dtype=np.float32) / np.float32(sampling_rate)
    bend = 2 ** (timbre.vibrato_cents / 1200 * np.sin(2 * np.pi * timbre.vibrato_hz * time)) - 1
    cycles = np.float32(frequency_hz) * (time + np.cumsum(bend, dtype=np.float32) / np.float32(sampling_rate))
    heard = timbre.ratios * frequency_hz < 0.45 * sampling_rate
    starts = generator.random(len(timbre.ratios), dtype=np.float32)
    phases = np.float32(2 * np.pi) * (timbre.ratios[heard, None] * cycles + starts[heard, None])
    partials = np.sin(phases, out=phases)
    if timbre.decays.any():
        partials *= np.exp(-timbre.decays[heard, None] * time)
    tone = timbre.levels[heard] @ partials
    tone += np.float32(timbre.breath) * generator.standard_normal(len(time), dtype=np.float32)
    attack = np.minimum(time / timbre.attack_s, 1)
    release = np.clip((seconds + timbre.release_s - time) / timbre.release_s, 0, 1)
    return np.asarray(tone * attack * release, dtype=np.float32)
