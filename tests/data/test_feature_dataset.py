from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_audio_mamba.data import AudioCollator, AugmentationConfig, FeatureDataset, FeatureTable
from hf_audio_mamba.data.augmentation import FeatureLayout
from hf_audio_mamba.errors import ShapeError, UsageError
from hf_audio_mamba.models.momamba import MoMambaFeatureExtractor

LENGTHS = (12, 30, 7, 25, 18, 40)
LABELS = [0, 1, 2, 0, 1, 2]
STRONG = AugmentationConfig(filter_db=6.0, mixup_alpha=0.4, mixup_probability=0.5)
CROP_ONLY = AugmentationConfig(spec_augment_time_masks=0, spec_augment_frequency_masks=0, time_shift=0, gain_db=0)
MIX_ONLY = AugmentationConfig(
    spec_augment_time_masks=0,
    spec_augment_frequency_masks=0,
    time_shift=0,
    gain_db=0,
    mixup_alpha=1.0,
    mixup_probability=1.0,
)


def make_table(lengths=LENGTHS) -> FeatureTable:
    generator = np.random.default_rng(0)
    features = [generator.uniform(-1, 1, (length, 16)).astype(np.float32) for length in lengths]
    layout = FeatureLayout(num_mel_bins=16, feature_size=16)
    return FeatureTable(list(features), list(lengths), list(range(len(lengths))), [], layout, 0)


def make_dataset(**options) -> FeatureDataset:
    options = {"augmentation": STRONG, "seed": 3, "max_frames": 20, "num_labels": 3, **options}
    return FeatureDataset(make_table(), LABELS, **options)


def assert_items_equal(first, second):
    np.testing.assert_array_equal(first["input_values"], second["input_values"])
    np.testing.assert_array_equal(first["labels"], second["labels"])


class TestDraws:
    def test_depend_on_seed_epoch_and_index_alone(self):
        first, second = make_dataset(), make_dataset()
        expected = {}
        for epoch in (0, 1):
            first.set_epoch(epoch)
            expected |= {(epoch, index): first[index] for index in range(6)}
        for epoch, index in reversed(expected):
            np.random.seed(index)
            torch.manual_seed(epoch)
            second.set_epoch(epoch)
            assert_items_equal(second[index], expected[epoch, index])

    def test_leave_global_generators_alone(self):
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        make_dataset()[0]
        assert torch.equal(torch.get_rng_state(), before[0])
        np.testing.assert_array_equal(np.random.get_state()[1], before[1])

    def test_differ_between_seeds_epochs_and_indices(self):
        dataset, other = make_dataset(), make_dataset(seed=4)
        at_first = dataset[1]["input_values"]
        dataset.set_epoch(1)
        assert not np.array_equal(at_first, dataset[1]["input_values"])
        assert not np.array_equal(at_first, other[1]["input_values"])
        same = FeatureDataset(
            FeatureTable([make_table().load(1)] * 2, [30] * 2, [0, 1], [], make_table().layout, 0),
            [0, 0],
            augmentation=AugmentationConfig(),
        )
        assert not np.array_equal(same[0]["input_values"], same[1]["input_values"])

    @pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
    def test_are_the_same_in_workers_that_outlive_an_epoch(self, context):
        dataset, alone = make_dataset(), make_dataset()
        loader = DataLoader(
            dataset,
            batch_size=1,
            num_workers=2,
            persistent_workers=True,
            multiprocessing_context=context,
            collate_fn=_only_item,
        )
        for epoch in range(2):
            dataset.set_epoch(epoch)
            alone.set_epoch(epoch)
            for index, item in enumerate(loader):
                assert_items_equal(item, alone[index])


def _only_item(items):
    return items[0]


class TestCrops:
    def test_evaluation_takes_the_middle(self):
        table = make_table()
        dataset = make_dataset(augmentation=None)
        np.testing.assert_array_equal(dataset[0]["input_values"], table.load(0))
        np.testing.assert_array_equal(dataset[1]["input_values"], table.load(1)[5:25])
        assert dataset.lengths == [12, 20, 7, 20, 18, 20]
        assert [len(dataset[index]["input_values"]) for index in range(6)] == dataset.lengths
        assert [dataset[index]["labels"] for index in range(6)] == LABELS

    def test_training_takes_any_part(self):
        table = make_table()
        dataset = make_dataset(augmentation=CROP_ONLY)
        starts = set()
        for epoch in range(100):
            dataset.set_epoch(epoch)
            values = dataset[1]["input_values"]
            matches = [start for start in range(11) if np.array_equal(values, table.load(1)[start : start + 20])]
            assert len(matches) == 1
            starts.update(matches)
        assert starts == set(range(11))

    def test_training_leaves_the_table_alone(self):
        dataset = make_dataset()
        table = dataset._table
        before = [table.load(index).copy() for index in range(6)]
        for index in range(6):
            dataset[index]
        for index in range(6):
            np.testing.assert_array_equal(table.load(index), before[index])

    def test_without_a_limit_clips_are_whole(self):
        assert make_dataset(max_frames=None).lengths == list(LENGTHS)


class TestMixup:
    def test_labels_say_what_was_mixed(self):
        table = make_table([20] * 3)
        dataset = FeatureDataset(table, [0, 1, 2], augmentation=MIX_ONLY, num_labels=4)
        mixed = 0
        for epoch in range(30):
            dataset.set_epoch(epoch)
            for index in range(3):
                item = dataset[index]
                weights = item["labels"]
                assert weights.dtype == np.float32
                assert weights.shape == (4,)
                assert weights.sum() == pytest.approx(1)
                assert weights[index] >= 0.5
                expected = sum(weights[other] * table.load(other) for other in range(3))
                np.testing.assert_allclose(item["input_values"], expected, atol=1e-5)
                mixed += weights[index] < 1
        assert 40 < mixed < 80, "the partner is another clip two times in three"

    def test_multi_label_and_regression_targets_are_mixed_too(self):
        targets = [[0.0, 1.0], [1.0, 1.0], [0.5, 0.0]]
        table = make_table([20] * 3)
        dataset = FeatureDataset(table, targets, augmentation=MIX_ONLY)
        for index in range(3):
            item = dataset[index]
            hull = np.array(targets).T
            assert (item["labels"] >= hull.min(axis=1)).all()
            assert (item["labels"] <= hull.max(axis=1)).all()
            assert (
                not np.array_equal(item["input_values"], table.load(index)) or item["labels"].tolist() == targets[index]
            )

    def test_unmixed_items_have_labels_of_the_same_kind(self):
        dataset = make_dataset(augmentation=AugmentationConfig(mixup_alpha=1.0, mixup_probability=0.3))
        labels = [dataset[index]["labels"] for index in range(6)]
        assert all(label.shape == (3,) and label.dtype == np.float32 for label in labels)
        assert any(label.max() == 1 for label in labels)

    def test_labels_may_stay_those_of_the_clip(self):
        noisy = replace(MIX_ONLY, mixup_labels=False)
        plain = make_dataset(augmentation=noisy, num_labels=None, max_frames=None)
        weighed = make_dataset(augmentation=MIX_ONLY, max_frames=None)
        assert [plain[index]["labels"] for index in range(6)] == LABELS
        for index in range(6):
            np.testing.assert_array_equal(plain[index]["input_values"], weighed[index]["input_values"])

    @pytest.mark.parametrize("rate", [0.2, 0.5])
    def test_rate(self, rate):
        table = make_table([20] * 6)
        dataset = FeatureDataset(table, LABELS, augmentation=replace(MIX_ONLY, mixup_probability=rate), num_labels=3)
        mixed = 0
        for epoch in range(200):
            dataset.set_epoch(epoch)
            mixed += sum(not np.allclose(dataset[i]["input_values"], table.load(i), atol=1e-6) for i in range(6))
        # A clip may meet itself: one time in six nothing changes.
        assert mixed / 1200 == pytest.approx(rate * 5 / 6, abs=0.05)

    def test_powers(self):
        dataset = make_dataset(augmentation=replace(MIX_ONLY, mixup_power=True), max_frames=None)
        # Relative levels again refer to their own maximum.
        assert all(dataset[index]["input_values"].max() == pytest.approx(1) for index in range(6))
        foreign = replace(make_table(), layout=FeatureLayout(16, 16, units_per_db=0.0))
        with pytest.raises(UsageError, match="mixup_power: the features of this model"):
            FeatureDataset(foreign, LABELS, augmentation=replace(MIX_ONLY, mixup_power=True), num_labels=3)

    def test_class_indices_need_the_number_of_classes(self):
        for num_labels in (None, 2):
            with pytest.raises(UsageError, match="num_labels, above the largest class index 2"):
                make_dataset(num_labels=num_labels)


class TestArguments:
    def test_one_label_for_each_clip(self):
        with pytest.raises(ShapeError, match="2 labels were given for 6 clips"):
            FeatureDataset(make_table(), [0, 1])

    def test_crop_length(self):
        with pytest.raises(UsageError, match="max_frames is 0"):
            make_dataset(max_frames=0)

    def test_index_out_of_range(self):
        with pytest.raises(IndexError):
            make_dataset()[6]
        assert_items_equal(make_dataset()[-1], make_dataset()[5])


class TestCollator:
    extractor = MoMambaFeatureExtractor(sampling_rate=8000, n_fft=256, win_length=256, hop_length=80, num_mel_bins=16)

    def test_pads_on_the_left_with_a_mask(self):
        dataset = make_dataset(augmentation=None)
        items = [dataset[index] for index in (0, 1, 2)]
        batch = AudioCollator(self.extractor)(items)
        assert batch["input_values"].shape == (3, 20, 16)
        assert batch["input_values"].dtype == torch.float32
        assert batch["attention_mask"].dtype == torch.int64
        for row, item in enumerate(items):
            length = len(item["input_values"])
            assert batch["attention_mask"][row].tolist() == [0] * (20 - length) + [1] * length
            np.testing.assert_array_equal(batch["input_values"][row, 20 - length :].numpy(), item["input_values"])
            assert (batch["input_values"][row, : 20 - length] == 0).all()

    def test_follows_the_side_of_the_extractor(self):
        right = MoMambaFeatureExtractor.from_dict(self.extractor.to_dict() | {"padding_side": "right"})
        dataset = make_dataset(augmentation=None)
        batch = AudioCollator(right, pad_to_multiple_of=16)([dataset[0], dataset[2]])
        assert batch["attention_mask"].tolist() == [[1] * 12 + [0] * 4, [1] * 7 + [0] * 9]

    @pytest.mark.parametrize(
        ("labels", "expected"),
        [
            ([1, 2], torch.tensor([1, 2])),
            ([[0.0, 1.0], [1.0, 1.0]], torch.tensor([[0.0, 1.0], [1.0, 1.0]])),
            ([[0.25], [0.5]], torch.tensor([[0.25], [0.5]])),
        ],
    )
    def test_labels_have_the_type_that_losses_take(self, labels, expected):
        dataset = FeatureDataset(make_table([5, 6]), labels)
        batch = AudioCollator(self.extractor)([dataset[0], dataset[1]])
        assert batch["labels"].dtype == expected.dtype
        assert torch.equal(batch["labels"], expected)

    def test_labels_may_be_absent(self):
        item = {"input_values": np.zeros((4, 16), np.float32)}
        assert set(AudioCollator(self.extractor)([item])) == {"input_values", "attention_mask"}


def test_features_come_from_files_as_from_memory(tmp_path: Path):
    table = make_table()
    paths = []
    for index in range(len(table)):
        paths.append(tmp_path / f"{index}.npy")
        np.save(paths[-1], table.load(index))
    on_disk = FeatureTable(list(paths), table.lengths, table.kept, [], table.layout, 0)
    options = {"augmentation": STRONG, "num_labels": 3, "max_frames": 20}
    first, second = FeatureDataset(table, LABELS, **options), FeatureDataset(on_disk, LABELS, **options)
    for index in range(6):
        assert_items_equal(first[index], second[index])


class TestCutMix:
    CUT = replace(CROP_ONLY, cutmix_alpha=1.0, cutmix_probability=0.5)

    def test_labels_are_weighed_by_area(self):
        table = make_table([20] * 3)
        dataset = FeatureDataset(table, [0, 1, 2], augmentation=self.CUT, num_labels=3)
        cut = 0
        for epoch in range(100):
            dataset.set_epoch(epoch)
            for index in range(3):
                item = dataset[index]
                area = [(item["input_values"] == table.load(clip)).mean() for clip in range(3)]
                np.testing.assert_allclose(item["labels"], area, atol=1e-6)
                cut += item["labels"][index] < 1
        # Half of them, a third of those with themselves, and a rectangle may round to nothing.
        assert 60 < cut <= 130

    def test_multi_label_targets_are_weighed_too(self):
        targets = [[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]
        table = make_table([20] * 3)
        dataset = FeatureDataset(table, targets, augmentation=self.CUT)
        for epoch in range(20):
            dataset.set_epoch(epoch)
            for index in range(3):
                item = dataset[index]
                area = [(item["input_values"] == table.load(clip)).mean() for clip in range(3)]
                np.testing.assert_allclose(item["labels"], np.array(area) @ targets, atol=1e-6)

    def test_no_clip_is_both_mixed_and_cut(self):
        table = make_table([20] * 3)
        both = replace(MIX_ONLY, mixup_probability=0.5, cutmix_alpha=1.0, cutmix_probability=0.5)
        dataset = FeatureDataset(table, [0, 1, 2], augmentation=both, num_labels=3)
        kinds = {"mixed": 0, "cut": 0}
        for epoch in range(100):
            dataset.set_epoch(epoch)
            for index in range(3):
                item = dataset[index]
                if item["labels"][index] == 1:
                    continue
                cells = np.array([item["input_values"] == table.load(clip) for clip in range(3)])
                blend = sum(weight * table.load(clip) for clip, weight in enumerate(item["labels"]))
                cut = bool(cells.any(axis=0).all())
                assert cut or np.allclose(item["input_values"], blend, atol=1e-5)
                kinds["cut" if cut else "mixed"] += 1
        assert min(kinds.values()) > 50


def test_rolled_clips():
    table = make_table()
    rolled = FeatureDataset(table, LABELS, roll_frames=3)
    for index in range(6):
        np.testing.assert_array_equal(rolled[index]["input_values"], np.roll(table.load(index), 3, axis=0))
    assert rolled.lengths == list(LENGTHS)
