"""Transposed copies: what is heard in them, what they are called, what is refused."""

from pathlib import Path

import numpy as np
import pytest

from hf_audio_mamba.data import AudioDataset, Clip, compute_features, load_audio_folder, transposed_copies
from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.features import as_waveform
from hf_audio_mamba.models.momamba import MoMambaFeatureExtractor

RATE = 8000
A4 = 69


def frequency_hz(samples: np.ndarray) -> float:
    """Frequency of a tone, by the peak of its spectrum."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 1 << 16))
    return float(np.argmax(spectrum) * RATE / (1 << 16))


@pytest.fixture
def notes(tmp_path: Path, write_tone) -> AudioDataset:
    """One tone for each of three neighbouring notes."""
    lines = ["file_name,pitch"]
    for pitch in (A4 - 1, A4, A4 + 1):
        write_tone(tmp_path / "train" / f"{pitch}.wav", 440 * 2 ** ((pitch - A4) / 12), seconds=1.0)
        lines.append(f"{pitch}.wav,{pitch}")
    (tmp_path / "train" / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load_audio_folder(tmp_path, label_column="pitch", validation_fraction=0)


def test_a_copy_sounds_as_its_label_says(notes: AudioDataset) -> None:
    copies = transposed_copies(notes, [1, -2], sampling_rate=RATE, move_labels=True)
    assert [(clip.name, clip.label) for clip in copies] == [
        ("train/68.wav (+1 semitones)", "69"),
        ("train/69.wav (+1 semitones)", "70"),
        ("train/70.wav (-2 semitones)", "68"),
    ]
    for clip in copies:
        samples = as_waveform(clip.content(), sampling_rate=RATE, source_rate=clip.sampling_rate)
        expected = 440 * 2 ** ((int(str(clip.label)) - A4) / 12)
        assert frequency_hz(samples) == pytest.approx(expected, rel=2e-3)
    faster = as_waveform(copies[0].content(), sampling_rate=RATE, source_rate=copies[0].sampling_rate)
    assert len(faster) == pytest.approx(RATE / 2 ** (1 / 12), abs=2)


def test_labels_that_are_no_pitches_stay(notes: AudioDataset) -> None:
    words = AudioDataset("dogs", {"train": notes.splits["train"]}, ["bark"], "multi_label_classification", {})
    copies = transposed_copies(words, [3], sampling_rate=RATE, move_labels=False)
    assert [clip.label for clip in copies] == [clip.label for clip in notes.splits["train"]]


def test_waveforms_and_encoded_bytes_are_copied_alike(notes: AudioDataset) -> None:
    path = notes.splits["train"][1].path
    assert path is not None
    waveform = as_waveform(path, sampling_rate=RATE)
    forms = [Clip("a", "69", audio=path.read_bytes()), Clip("b", "69", audio=waveform, sampling_rate=RATE)]
    dataset = AudioDataset("notes", {"train": forms}, ["69", "70"], "single_label_classification", {})
    first, second = transposed_copies(dataset, [1], sampling_rate=RATE, move_labels=True)
    np.testing.assert_array_equal(first.content(), second.content())


def test_features_of_copies_are_cached_apart(notes: AudioDataset, tmp_path: Path) -> None:
    extractor = MoMambaFeatureExtractor(sampling_rate=RATE, n_fft=256, win_length=256, hop_length=80, num_mel_bins=16)
    copies = transposed_copies(notes, [1, -1], sampling_rate=RATE, move_labels=True)
    tables = [
        compute_features(clips, extractor, cache_dir=tmp_path / "cache", num_workers=1, progress=False)
        for clips in (notes.splits["train"], copies, copies)
    ]
    assert [table.num_cached for table in tables] == [0, 0, len(copies)]
    both = tables[0].joined(tables[1])
    assert len(both) == len(both.lengths) == 3 + len(copies)
    np.testing.assert_array_equal(both.load(3), tables[1].load(0))
    assert both.kept == list(range(3 + len(copies)))


@pytest.mark.parametrize("interval", [0, 13, -13])
def test_wrong_intervals_are_named(notes: AudioDataset, interval: int) -> None:
    with pytest.raises(UsageError, match=f"transpose_copies: {interval} semitones"):
        transposed_copies(notes, [1, interval], sampling_rate=RATE, move_labels=False)


def test_labels_must_be_pitches(notes: AudioDataset) -> None:
    words = AudioDataset("dogs", notes.splits, ["69", "bark"], "single_label_classification", {})
    with pytest.raises(UsageError, match=r"moves MIDI note numbers, but dogs has 'bark'.*transposed_labels=keep"):
        transposed_copies(words, [1], sampling_rate=RATE, move_labels=True)
    numbers = AudioDataset("values", notes.splits, ["69"], "regression", {})
    with pytest.raises(UsageError, match="the task is regression"):
        transposed_copies(numbers, [1], sampling_rate=RATE, move_labels=True)
