"""Streams of clips: who reads what, in which order, and what happens to clips that cannot be read."""

import logging
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_audio_mamba import MoMambaFeatureExtractor
from hf_audio_mamba.data import (
    AudioDataset,
    AugmentationConfig,
    ClipStream,
    ShardSource,
    load_audio_folder,
    read_label_table,
    write_shards,
)
from hf_audio_mamba.data.clip_stream import StreamPart
from hf_audio_mamba.errors import DataError, UsageError
from tests.training.tone_folder import write_tones

EXTRACTOR = MoMambaFeatureExtractor(sampling_rate=8000, n_fft=256, win_length=256, hop_length=160, num_mel_bins=8)
CLIPS = 42  # training clips of the folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> AudioDataset:
    return load_audio_folder(write_tones(tmp_path_factory.mktemp("tones"), clips_per_class=20))


@pytest.fixture(scope="module")
def source(dataset: AudioDataset, tmp_path_factory: pytest.TempPathFactory) -> ShardSource:
    folder = tmp_path_factory.mktemp("shards") / "shards"
    shards = write_shards(dataset, folder, num_shards=4)["train"]
    return ShardSource(shards, read_label_table(folder))


@pytest.fixture
def stream(dataset: AudioDataset, source: ShardSource) -> Callable[..., ClipStream]:
    def make(source: ShardSource = source, *, dataset: AudioDataset = dataset, **settings: Any) -> ClipStream:
        return ClipStream(
            source, dataset, EXTRACTOR, **{"batch_size": 4, "training": True, "shuffle_buffer": 8, **settings}
        )

    return make


def names(source: ShardSource, part: StreamPart, **order: int) -> list[str]:
    return [clip.name for clip in source.clips(part, **{"seed": 0, "epoch": 0, "shuffle_buffer": 8, **order})]


def fingerprint(batches: list[Any]) -> list[list[float]]:
    return [[float(np.abs(item["input_values"]).sum()) for item in batch] for batch in batches]


@pytest.mark.parametrize("readers", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("shuffle_buffer", [0, 8])
def test_readers_share_every_clip_once_an_epoch(source: ShardSource, readers: int, shuffle_buffer: int) -> None:
    order = {"shuffle_buffer": shuffle_buffer, "epoch": 1}
    parts = [names(source, StreamPart(index, readers), **order) for index in range(readers)]
    together = [name for part in parts for name in part]
    assert len(together) == CLIPS == len(set(together))
    for index, part in enumerate(parts):
        counted = source.count(StreamPart(index, readers), seed=0, epoch=1, shuffle_buffer=shuffle_buffer)
        assert counted == len(part)


def test_the_order_depends_on_seed_and_epoch_alone(source: ShardSource) -> None:
    part = StreamPart(0, 2)
    first = names(source, part)
    assert names(source, part) == first
    for change in ({"epoch": 1}, {"seed": 1}):
        other = names(source, part, **change)
        assert other != first
    # (seed 0, epoch 1) and (seed 1, epoch 0) are different draws.
    assert names(source, part, epoch=1) != names(source, part, seed=1)
    assert names(source, StreamPart(0, 1), shuffle_buffer=0) == names(
        source, StreamPart(0, 1), shuffle_buffer=0, seed=1, epoch=1
    )


def test_training_goes_on_over_epochs_with_whole_batches(stream: Callable[..., ClipStream]) -> None:
    batches = list(islice(stream(), 22))
    assert {len(batch) for batch in batches} == {4}
    labels = [item["labels"] for batch in batches for item in batch]
    # 42 clips of three classes an epoch; two epochs and four clips of the third.
    assert all(abs(labels[: 2 * CLIPS].count(label) - 28) == 0 for label in range(3))
    shapes = {item["input_values"].shape for batch in batches for item in batch}
    assert shapes == {(13, 8)}


@pytest.mark.parametrize("start", [1, 7, 25])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_stream_goes_on_where_it_was(stream: Callable[..., ClipStream], start: int, workers: int) -> None:
    augmentation = AugmentationConfig(mixup_alpha=0.4, gain_db=6)
    make = lambda: stream(augmentation=augmentation, seed=3)  # noqa: E731
    whole, resumed = make(), make()
    resumed.start_batch = start
    both = [
        list(islice(DataLoader(part, batch_size=None, num_workers=workers, collate_fn=lambda items: items), 30))
        for part in (whole, resumed)
    ]
    assert both[1][:start] == [None] * start
    assert fingerprint(both[1][start:]) == fingerprint(both[0][start:])
    torch.testing.assert_close(
        torch.tensor(np.asarray([item["labels"] for item in both[1][-1]])),
        torch.tensor(np.asarray([item["labels"] for item in both[0][-1]])),
    )


def test_passing_over_decodes_nothing(stream: Callable[..., ClipStream], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    real = ClipStream._decoded

    def record(self: ClipStream, stored: Any, worker: int) -> Any:
        decoded.append(stored.name)
        return real(self, stored, worker)

    monkeypatch.setattr(ClipStream, "_decoded", record)
    part = stream()
    part.start_batch = 25
    list(islice(part, 26))
    assert len(decoded) == 4


def test_workers_and_processes_read_different_clips(dataset: AudioDataset, source: ShardSource) -> None:
    seen = []
    for rank in range(2):
        part = ClipStream(source, dataset, EXTRACTOR, batch_size=3, training=False, rank=rank, world_size=2)
        loader = DataLoader(part, batch_size=None, num_workers=2, collate_fn=lambda items: items)
        seen += [item["name"] for batch in loader for item in batch]
    assert len(seen) == CLIPS == len(set(seen))


def test_clips_of_an_evaluation_can_be_shifted(stream: Callable[..., ClipStream]) -> None:
    evaluation = stream(training=False)
    plain = [item["input_values"] for batch in evaluation for item in batch]
    evaluation.roll_frames = 3
    for before, item in zip(plain, (item for batch in evaluation for item in batch), strict=True):
        np.testing.assert_array_equal(item["input_values"], np.concatenate([before[-3:], before[:-3]]))


def test_augmentation_is_drawn_anew_and_mixes_within_the_batch(stream: Callable[..., ClipStream]) -> None:
    plain = fingerprint(list(islice(stream(), 22)))
    augmented = stream(augmentation=AugmentationConfig(mixup_alpha=1.0, mixup_probability=1.0))
    batches = list(islice(augmented, 22))
    assert fingerprint(batches) == fingerprint(list(islice(augmented, 22)))
    assert all(a != b for a, b in zip(fingerprint(batches), plain, strict=True))
    for batch in batches:
        for item in batch:
            assert item["labels"].sum() == pytest.approx(1)


@pytest.fixture
def corrupt(dataset: AudioDataset, tmp_path: Path) -> ShardSource:
    """Shards in which one training clip of seven is damaged."""
    folder = tmp_path / "damaged"
    clips = list(dataset.splits["train"])
    for index in range(0, len(clips), 7):
        clips[index] = type(clips[index])(clips[index].name, clips[index].label, audio=b"RIFF, not audio")
    damaged = AudioDataset("damaged", {"train": clips}, dataset.label_names, dataset.problem_type, {})
    return ShardSource(
        write_shards(damaged, folder, num_shards=2, file_format="tar")["train"], read_label_table(folder)
    )


def test_unreadable_clips_are_skipped_and_counted(
    stream: Callable[..., ClipStream], corrupt: ShardSource, caplog: pytest.LogCaptureFixture
) -> None:
    evaluation = stream(corrupt, training=False)
    with caplog.at_level(logging.WARNING):
        read = [item["name"] for batch in evaluation for item in batch]
    assert len(read) == CLIPS - 6
    assert evaluation.num_skipped == 6
    assert sum("cannot be read and is skipped" in record.message for record in caplog.records) == 6

    training = stream(corrupt, batch_size=6)
    batches = list(islice(training, 7))
    assert {len(batch) for batch in batches} == {6}
    assert training.num_skipped == 6


def test_skipped_clips_are_counted_in_workers_too(stream: Callable[..., ClipStream], corrupt: ShardSource) -> None:
    evaluation = stream(corrupt, training=False)
    list(DataLoader(evaluation, batch_size=None, num_workers=2, collate_fn=lambda items: items))
    assert evaluation.num_skipped == 6


def test_too_many_unreadable_clips_end_the_stream(stream: Callable[..., ClipStream], corrupt: ShardSource) -> None:
    with pytest.raises(DataError, match=r"of the first 10\d\d clips cannot be read, more than --max_corrupt_fraction"):
        list(islice(stream(corrupt, batch_size=6), 200))
    list(islice(stream(corrupt, batch_size=6, max_corrupt_fraction=0.2), 200))


def test_a_batch_without_a_readable_clip_is_an_error(stream: Callable[..., ClipStream], corrupt: ShardSource) -> None:
    with pytest.raises(DataError, match=r"none of the 1 clips of a batch can be read .*\.wav"):
        list(islice(stream(corrupt, batch_size=1), CLIPS))


def test_a_reader_without_clips_is_told(stream: Callable[..., ClipStream]) -> None:
    with pytest.raises(DataError, match="no clip for reader 100 of 100"):
        next(iter(stream(rank=99, world_size=100)))


def test_numbers_out_of_range_are_refused(stream: Callable[..., ClipStream]) -> None:
    with pytest.raises(UsageError, match="batch_size 0"):
        stream(batch_size=0)
    with pytest.raises(UsageError, match="shuffle_buffer -1"):
        stream(shuffle_buffer=-1)
