"""Three-note motifs, rendered on the fly: the data set that comes with the package.

The class of a clip is the contour of its motif (rising, falling, arch or valley) together with the family of
the instrument that plays it. The three pitches, the instrument, tempo, loudness, room and noise are random
and independent of
the contour: every set of three pitches is as likely to be played in any order. What is left when time is
averaged away tells the family at best, so a model has to follow the melody to do better.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from hf_audio_mamba.data.audio_dataset import AudioDataset, Clip
from hf_audio_mamba.data.dataset_checks import build_audio_dataset
from hf_audio_mamba.data.timbres import FAMILIES, draw_timbre, play
from hf_audio_mamba.errors import UsageError

SAMPLING_RATE = 44_100
SPLIT_FRACTIONS = {"train": 0.7, "validation": 0.15, "test": 0.15}

# Orders of the lowest (0), middle (1) and highest (2) of three pitches.
CONTOURS = {
    "rising": ((0, 1, 2),),
    "falling": ((2, 1, 0),),
    "arch": ((0, 2, 1), (1, 2, 0)),
    "valley": ((1, 0, 2), (2, 0, 1)),
}

# Middles of a low, a middle and a high register, as MIDI pitches, and how far a note may be from the middle.
_REGISTERS = (48, 64, 80)
_SPREAD = 4


def synthetic_notes(*, num_clips: int = 2000, seconds: float = 1.0, seed: int = 0) -> AudioDataset:
    """Data set of rendered motifs with 8 classes such as `arch blown`.

    A clip depends on the seed, its split and its index alone. Clips are rendered when they are read, in about
    5 ms.

    Args:
        num_clips: In all splits together: 70 % training, 15 % validation, 15 % test. At least 60.
        seconds: Length of each clip, from 0.5 to 10.
        seed: Equal seeds give equal clips.

    Returns:
        Waveforms at 44.1 kHz; labels spread evenly over each split.

    Raises:
        UsageError: If `num_clips` or `seconds` is out of its range.
    """
    if num_clips < 60:
        raise UsageError(f"num_clips is {num_clips}, but at least 60 are needed for every class to be in every split")
    if not 0.5 <= seconds <= 10:
        raise UsageError(f"seconds is {seconds}, but must be from 0.5 to 10")
    classes = [(contour, family) for contour in CONTOURS for family in FAMILIES]
    splits: dict[str, list[Clip]] = {}
    for number, (split, fraction) in enumerate(SPLIT_FRACTIONS.items()):
        splits[split] = []
        for index in range(round(fraction * num_clips)):
            contour, family = classes[index % len(classes)]
            audio = partial(render_motif, contour, family, seconds=seconds, seed=(seed, number, index))
            name = f"{split}/{index:05d}"
            splits[split].append(Clip(name, f"{contour} {family}", audio=audio, sampling_rate=SAMPLING_RATE))
    info = {"source": f"three-note motifs rendered by hf_audio_mamba, {seconds:g} s each, seed {seed}"}
    return build_audio_dataset("synthetic-notes", splits, problem_type="single_label_classification", info=info)


def render_motif(contour: str, family: str, *, seconds: float, seed: tuple[int, ...]) -> NDArray[np.float32]:
    """Waveform `(samples,)` at 44.1 kHz, within [-1, 1].

    Args:
        contour: One of `CONTOURS`.
        family: One of `timbres.FAMILIES`.
        seconds: Length.
        seed: Of all draws.
    """
    generator = np.random.default_rng(seed)
    orders = CONTOURS[contour]
    # Drawn before anything that depends on the contour, so that the contour changes nothing but the order.
    pitches = _draw_pitches(generator)
    order = orders[int(generator.integers(2)) % len(orders)]
    timbre = draw_timbre(family, generator)
    detune = generator.uniform(-0.3, 0.3)
    onsets, durations = _draw_rhythm(seconds, generator)
    levels = 10 ** (generator.uniform(-6, 0, size=3) / 20)
    motif = np.zeros(int(seconds * SAMPLING_RATE), dtype=np.float32)
    for place, onset, duration, level in zip(order, onsets, durations, levels, strict=True):
        frequency = 440 * 2 ** ((pitches[place] + detune - 69) / 12)
        note = play(timbre, frequency, duration, SAMPLING_RATE, generator)
        start = int(onset * SAMPLING_RATE)
        part = note[: len(motif) - start]
        motif[start : start + len(part)] += np.float32(level) * part
    motif = _add_noise(_add_room(motif, generator), generator)
    peak = float(np.abs(motif).max())
    return (motif * np.float32(10 ** (generator.uniform(-12, -1) / 20) / peak)).astype(np.float32)


def _draw_pitches(generator: np.random.Generator) -> list[int]:
    """Three MIDI pitches, ascending, one from each register: at least 8 and at most 24 semitones apart."""
    return [int(middle + generator.integers(-_SPREAD, _SPREAD + 1)) for middle in _REGISTERS]


def _draw_rhythm(seconds: float, generator: np.random.Generator) -> tuple[list[float], list[float]]:
    """Onsets and durations of three notes in s: uneven, with rests before, between and after."""
    parts = generator.uniform(0.7, 1.3, size=3)
    lead, sounding = generator.uniform(0.0, 0.12) * seconds, generator.uniform(0.7, 0.85) * seconds
    slots = sounding * parts / parts.sum()
    onsets = lead + np.concatenate([[0.0], np.cumsum(slots)[:2]])
    durations = slots * generator.uniform(0.6, 0.95, size=3)
    return onsets.tolist(), durations.tolist()


def _add_room(motif: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """Reverberation: decaying noise as the response of a room (Moorer 1979), added below the direct sound."""
    decay_s = generator.uniform(0.05, 0.25)
    time = np.arange(int(decay_s * SAMPLING_RATE), dtype=np.float32) / SAMPLING_RATE
    response = generator.standard_normal(len(time), dtype=np.float32) * np.exp(-6.9 * time / decay_s)
    size = 1 << (len(motif) + len(response)).bit_length()
    tail = np.fft.irfft(np.fft.rfft(motif, size) * np.fft.rfft(response, size), size)[: len(motif)]
    ratio_db = generator.uniform(-30, -12)
    scale = 10 ** (ratio_db / 20) * np.sqrt(np.mean(motif**2) / max(float(np.mean(tail**2)), 1e-20))
    return np.asarray(motif + scale * tail, dtype=np.float32)


def _add_noise(motif: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """Background noise between white and brown 10 to 35 dB below the motif."""
    white = generator.standard_normal(len(motif), dtype=np.float32)
    spectrum = np.fft.rfft(white)
    frequencies = np.fft.rfftfreq(len(motif), 1 / SAMPLING_RATE)
    spectrum *= np.maximum(frequencies, 20.0) ** -generator.uniform(0, 1)
    noise = np.fft.irfft(spectrum, len(motif))
    snr_db = generator.uniform(10, 35)
    scale = 10 ** (-snr_db / 20) * np.sqrt(np.mean(motif**2) / np.mean(noise**2))
    return np.asarray(motif + scale * noise, dtype=np.float32)
