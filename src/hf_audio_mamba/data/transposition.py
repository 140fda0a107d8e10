"""Copies of clips at another pitch; a label that is a pitch moves along."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from hf_audio_mamba.data.audio_dataset import AudioDataset, Clip, Waveform
from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.features import as_waveform

MAX_SEMITONES = 12


def transposed_copies(
    dataset: AudioDataset, semitones: Sequence[int], *, sampling_rate: int, move_labels: bool
) -> list[Clip]:
    """Copies of the training clips, each transposed by every interval.

    A copy is its clip played faster or slower, as a tape would be: all frequencies move by the interval, and the
    duration shrinks or grows with it. Its audio is made when it is asked for.

    Args:
        dataset: Any clips; with `move_labels` those whose single labels are MIDI note numbers.
        semitones: Intervals, up positive, each between -12 and 12 and not 0.
        sampling_rate: Rate at which files are read, in Hz; their content above half of it is lost.
        move_labels: Whether labels move by the interval, for pitches; a copy whose moved label is none of the data
            set's is left out. Otherwise they stay, for classes and values that the pitch does not decide.

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
    if move_labels:
        _check_pitches(dataset)
    copies = (
        _transposed(clip, interval, sampling_rate, move_labels)
        for interval in semitones
        for clip in dataset.splits["train"]
    )
    known = set(dataset.label_names)
    return [copy for copy in copies if not move_labels or copy.label in known]


def _check_pitches(dataset: AudioDataset) -> None:
    advice = "Labels that are no pitches stay as they are with transposed_labels=keep."
    if dataset.problem_type != "single_label_classification":
        raise UsageError(f"transpose_copies moves one pitch a clip, but the task is {dataset.problem_type}. {advice}")
    for name in dataset.label_names:
        if not name.isdecimal():
            raise UsageError(f"transpose_copies moves MIDI note numbers, but {dataset.name} has {name!r}. {advice}")


def _transposed(clip: Clip, interval: int, sampling_rate: int, move_label: bool) -> Clip:
    return replace(
        clip,
        name=f"{clip.name} ({interval:+d} semitones)",
        label=str(int(str(clip.label)) + interval) if move_label else clip.label,
        path=None,
        audio=partial(_samples, clip, sampling_rate),
        # The same samples at a higher rate: higher and shorter.
        sampling_rate=round(sampling_rate * 2 ** (interval / 12)),
    )


def _samples(clip: Clip, sampling_rate: int) -> Waveform:
    return as_waveform(
        clip.path or clip.content(), sampling_rate=sampling_rate, source_rate=clip.sampling_rate, name=repr(clip.name)
    )
