"""From notes to sound: a score played with a soundfont, by symusic's synthesizer, which needs no system library."""

import importlib.util
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_audio_mamba._optional import require
from hf_audio_mamba.errors import MidiError, MissingExtraError, UsageError
from hf_audio_mamba.midi.writing import write_whole

if TYPE_CHECKING:
    from symusic import Score

SAMPLING_RATE = 44_100
PEAK = 0.9
"""Largest absolute sample of a rendered score; the synthesizer's own may be several times 1."""
MAX_SECONDS = 3600.0
"""Longest score that is rendered: 1.3 GB of samples at 44.1 kHz."""
SAMPLING_RATES = (8_000, 192_000)


def default_soundfont() -> Path:
    """The General MIDI soundfont TimGM6mb that the package `pretty_midi` brings.

    Raises:
        MissingExtraError: If that package is not installed.
    """
    spec = importlib.util.find_spec("pretty_midi")  # without importing it, which takes a second
    path = None if spec is None or spec.origin is None else Path(spec.origin).with_name("TimGM6mb.sf2")
    if path is None or not path.is_file():
        raise MissingExtraError(
            "rendering without a soundfont of your own needs the one in the package 'pretty_midi'. "
            "Install it with: pip install 'hf_audio_mamba[midi]'"
        )
    return path


def render_score(
    score: "Score", *, soundfont: str | os.PathLike[str] | None = None, sampling_rate: int = SAMPLING_RATE
) -> NDArray[np.float32]:
    """Play a score.

    Args:
        score: Score in any unit of time.
        soundfont: Path of a SoundFont 2 file; by default `default_soundfont()`.
        sampling_rate: In Hz, from 8,000 to 192,000.

    Returns:
        Samples `(2, samples)`, scaled to a peak of 0.9; the last notes ring out. No samples for a score without notes.

    Raises:
        MidiError: If the score lasts more than an hour.
        MissingExtraError: If symusic, or without `soundfont` pretty_midi, is not installed.
        UsageError: If the soundfont cannot be read, or the sampling rate is out of range.
    """
    synthesizer = _synthesizer(soundfont, sampling_rate)
    in_seconds = score.to("second")
    if in_seconds.note_num() == 0:
        return np.zeros((2, 0), dtype=np.float32)
    if in_seconds.end() > MAX_SECONDS:
        raise MidiError(f"the score lasts {in_seconds.end():.0f} s; at most {MAX_SECONDS:.0f} s are rendered. Cut it.")
    samples = np.ascontiguousarray(synthesizer.render(in_seconds, True), dtype=np.float32)
    peak = float(np.abs(samples).max(initial=0.0))
    return samples * np.float32(PEAK / peak) if peak > 0 else samples


def save_audio(
    score: "Score",
    path: str | os.PathLike[str],
    *,
    soundfont: str | os.PathLike[str] | None = None,
    sampling_rate: int = SAMPLING_RATE,
) -> Path:
    """Play a score into a stereo WAV file with 16 bits a sample; arguments and errors as for `render_score`.

    Returns:
        The path written; missing folders are made.

    Raises:
        OutputError: If the file cannot be written; one that was there before stays whole.
    """
    import soundfile

    samples = render_score(score, soundfont=soundfont, sampling_rate=sampling_rate)
    content = io.BytesIO()
    soundfile.write(content, samples.T, sampling_rate, format="WAV", subtype="PCM_16")
    return write_whole(path, content.getvalue())


def check_sound(soundfont: str | os.PathLike[str] | None, sampling_rate: int) -> None:
    """Make sure, before music is made, that it can be played; errors are those of `render_score`."""
    _synthesizer(soundfont, sampling_rate)


def _synthesizer(soundfont: str | os.PathLike[str] | None, sampling_rate: int) -> Any:
    lowest, highest = SAMPLING_RATES
    if not lowest <= sampling_rate <= highest:
        raise UsageError(f"sampling_rate must be from {lowest} to {highest} Hz, not {sampling_rate}")
    path = default_soundfont() if soundfont is None else Path(soundfont)
    symusic = require("symusic", extra="midi", purpose="rendering music")
    try:
        return symusic.Synthesizer(str(path), sampling_rate, 0)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"the soundfont {path} cannot be read: {reason}. Name a SoundFont 2 file (.sf2).") from error
