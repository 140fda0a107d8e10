"""Copies of notes at another pitch, with the pitch label moved along."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from hf_audio_mamba.data.audio_dataset import AudioDataset, Clip, Waveform
from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.features import as_waveform

MAX_SEMITONES = 12


def transposed_copies(dataset: AudioDataset, semitones: Sequence[int], *, sampling_rate: int) -> list[Clip]:
    """Copies of the training clips of a pitch data set, each transposed by every interval.

    A copy is its clip played faster or slower, as a tape would be: all frequencies move by the interval, and the
    duration shrinks or grows with it. Its audio is made when it is asked for. Copies whose moved label is none of the
    data set's are left out.

    Args:
        dataset: Clips whose single labels are MIDI note numbers.
        semitones: Intervals, up positive, each between -12 and 12 and not 0.
        sampling_rate: Rate at which files are read, in Hz; their content above half of it is lost.

    Returns:
        Copies in the order of the intervals, then of the clips.

    Raises:
        UsageError: If an interval is 0 or too large, or a label is not a whole number.
    """
    for interval in semitones:
        if interval == 0 or abs(interval) > MAX_SEMITONES:
            raise UsageError(
                f"transpose_copies: {interval} semitones; give intervals between -{MAX_SEMITONES} and "
                f"{MAX_SEMITONES}, without 0."
            )
    if dataset.problem_type != "single_label_classification":
        raise UsageError(f"transpose_copies needs one pitch for each clip, but the task is {dataset.problem_type}.")
    for name in dataset.label_names:
        if not name.lstrip("-").isdecimal():
            raise UsageError(f"transpose_copies needs MIDI note numbers as labels, but {dataset.name} has {name!r}.")
    known = set(dataset.label_names)
    return [
        _transposed(clip, interval, sampling_rate)
        for interval in semitones
        for clip in dataset.splits["train"]
        if str(int(str(clip.label)) + interval) in known
    ]


def _transposed(clip: Clip, interval: int, sampling_rate: int) -> Clip:
    return replace(
        clip,
        name=f"{clip.name} ({interval:+d} semitones)",
        label=str(int(str(clip.label)) + interval),
        path=None,
        audio=partial(_samples, clip, sampling_rate),
        # The same samples at a higher rate: higher and shorter.
        sampling_rate=round(sampling_rate * 2 ** (interval / 12)),
    )


def _samples(clip: Clip, sampling_rate: int) -> Waveform:
    return as_waveform(
        clip.path or clip.content(), sampling_rate=sampling_rate, source_rate=clip.sampling_rate, name=repr(clip.name)
    )
