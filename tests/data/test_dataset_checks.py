from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_audio_mamba.data import Clip, load_audio_folder
from hf_audio_mamba.data.audio_dataset import content_digest, sort_labels
from hf_audio_mamba.data.dataset_checks import build_audio_dataset
from hf_audio_mamba.data.splits import hold_out_validation
from hf_audio_mamba.errors import DataError, UsageError

SINGLE = "single_label_classification"
MULTI = "multi_label_classification"


def clip(name, label, content=None):
    return Clip(name, label, audio=content if content is not None else name.encode())


def build(problem_type=SINGLE, *, validation=(), test=(), **options):
    train = options.pop("train", [clip("a", "x"), clip("b", "y")])
    splits = {"train": list(train), "validation": list(validation), "test": list(test)}
    return build_audio_dataset("notes", splits, problem_type=problem_type, info={}, **options)


class TestClip:
    def test_needs_exactly_one_source(self, tmp_path):
        with pytest.raises(UsageError, match="either a path or audio"):
            Clip("a", "x")
        with pytest.raises(UsageError, match="either a path or audio"):
            Clip("a", "x", path=tmp_path, audio=b"1")

    def test_content_of_each_kind(self, tmp_path):
        (tmp_path / "f").write_bytes(b"file")
        assert Clip("a", "x", path=tmp_path / "f").content() == b"file"
        assert Clip("a", "x", audio=b"bytes").content() == b"bytes"
        assert Clip("a", "x", audio=lambda: b"late").content() == b"late"
        with pytest.raises(DataError, match="gone"):
            Clip("a", "x", path=tmp_path / "gone").content()

    def test_digest_tells_samples_types_and_rates_apart(self):
        samples = np.arange(4, dtype=np.float32)
        digests = [
            content_digest(samples, 8000),
            content_digest(samples, 16000),
            content_digest(samples.astype(np.float64), 8000),
            content_digest(samples[::-1], 8000),
            content_digest(samples.tobytes(), 8000),
        ]
        assert len(set(digests)) == len(digests)
        assert content_digest(np.repeat(samples, 2)[::2], 8000) == digests[0], "strides do not matter"


class TestUnseenLabels:
    test_clips = (clip("c", "z"), clip("d", "x"))

    def test_error_names_labels_and_clip(self):
        with pytest.raises(DataError, match=r"1 test clips .* never sees: z .*'c'"):
            build(test=self.test_clips)

    def test_keep_gives_them_an_index(self):
        dataset = build(test=self.test_clips, unseen_labels="keep")
        assert dataset.label_names == ["x", "y", "z"]
        assert [dataset.encode(entry) for entry in dataset.splits["test"]] == [2, 0]
        assert "count as mistakes" in dataset.info["unseen labels"]

    def test_drop_leaves_them_out(self):
        dataset = build(test=self.test_clips, unseen_labels="drop")
        assert dataset.label_names == ["x", "y"]
        assert [entry.name for entry in dataset.splits["test"]] == ["d"]
        with pytest.raises(DataError, match="no clip of the test split"):
            build(test=self.test_clips[:1], unseen_labels="drop")

    def test_unknown_choices(self):
        with pytest.raises(UsageError, match="'maybe' is not one of error, keep, drop"):
            build(unseen_labels="maybe")
        with pytest.raises(UsageError, match="'maybe' is not one of error, drop"):
            build(duplicates="maybe")


class TestSharedAudio:
    def test_files_are_named(self, tmp_path, write_table):
        write_table(tmp_path / "train" / "metadata.csv", "file_name,label", "a.wav,x", "b.wav,y")
        write_table(tmp_path / "test" / "metadata.csv", "file_name,label", "z.wav,x", first_frequency_hz=210)
        with pytest.raises(DataError, match=r"'train/b\.wav' in train and 'test/z\.wav' in test"):
            load_audio_folder(tmp_path, validation_fraction=0)

    def test_drop_keeps_the_test_split_whole(self):
        train = [clip("a", "x"), clip("b", "y"), clip("c", "x", b"same")]
        validation = [clip("d", "y", b"same"), clip("f", "x")]
        dataset = build(train=train, validation=validation, test=[clip("e", "x", b"same")], duplicates="drop")
        names = {split: [entry.name for entry in clips] for split, clips in dataset.splits.items()}
        assert names == {"train": ["a", "b"], "validation": ["f"], "test": ["e"]}
        assert "c (as e in test)" in dataset.info["duplicates"]
        assert "d (as e in test)" in dataset.info["duplicates"]
        with pytest.raises(DataError, match="every clip of the validation split is also in a later split"):
            build(validation=validation[:1], test=[clip("e", "x", b"same")], duplicates="drop")

    def test_equal_size_or_equal_split_is_no_leak(self):
        train = [clip("a", "x", b"same"), clip("b", "y", b"same")]
        build(train=train, test=[clip("c", "x", b"size")])

    def test_rendered_audio_is_not_rendered_for_this(self):
        def explode():
            raise AssertionError("rendered")

        build(test=[Clip("c", "x", audio=explode)])


class TestLabels:
    def test_one_class_is_an_error(self):
        with pytest.raises(DataError, match="the same label 'x'"):
            build(train=[clip("a", "x"), clip("b", "x")])

    def test_no_training_clips(self):
        with pytest.raises(DataError, match="no training clips"):
            build(train=[], test=[clip("a", "x")])

    def test_multi_label(self, tmp_path, write_table):
        write_table(tmp_path / "metadata.csv", "file_name,tags", "a.wav,rock; loud;rock", "b.wav,", "c.wav,loud;")
        dataset = load_audio_folder(tmp_path, label_column="tags", problem_type=MULTI, validation_fraction=0)
        assert [entry.label for entry in dataset.splits["train"]] == [("rock", "loud"), (), ("loud",)]
        assert dataset.label_names == ["loud", "rock"]
        assert [dataset.encode(entry) for entry in dataset.splits["train"]] == [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]

    def test_multi_label_without_any_label(self):
        with pytest.raises(DataError, match="no training clip has any label"):
            build(MULTI, train=[clip("a", ()), clip("b", ())])

    def test_regression(self, tmp_path, write_table):
        write_table(tmp_path / "metadata.csv", "file_name,valence,arousal", "a.wav,1,9", "b.wav,5.0,3e0")
        options = {"label_column": "arousal, valence", "problem_type": "regression", "validation_fraction": 0}
        dataset = load_audio_folder(tmp_path, **options)
        assert dataset.label_names == ["arousal", "valence"]
        assert [dataset.encode(entry) for entry in dataset.splits["train"]] == [[9.0, 1.0], [3.0, 5.0]]
        assert dataset.decode_regression([9, 1]) == [9.0, 1.0]
        scaled = load_audio_folder(tmp_path, **options, label_range=(1, 9))
        assert [scaled.encode(entry) for entry in scaled.splits["train"]] == [[1.0, 0.0], [0.25, 0.5]]
        assert scaled.decode_regression([0.25, 0.5]) == [3.0, 5.0]

    @pytest.mark.parametrize("value", ["high", "nan", "inf", "-inf", "1e999", ""])
    def test_regression_needs_finite_numbers(self, tmp_path, write_table, value):
        write_table(tmp_path / "metadata.csv", "file_name,label", "a.wav,1", f"b.wav,{value}")
        with pytest.raises(DataError, match="line 3: the label"):
            load_audio_folder(tmp_path, problem_type="regression")

    def test_regression_outside_of_its_range(self, tmp_path, write_table):
        write_table(tmp_path / "metadata.csv", "file_name,label", "a.wav,1", "b.wav,9.5")
        with pytest.raises(DataError, match=r"'b\.wav' has the label 9\.5, outside of \[1, 9\]"):
            load_audio_folder(tmp_path, problem_type="regression", label_range=(1, 9))

    @pytest.mark.parametrize("label_range", [(1, 1), (2, 1), (0, float("inf")), (float("nan"), 1)])
    def test_impossible_ranges(self, label_range):
        with pytest.raises(UsageError, match="two finite numbers"):
            build("regression", train=[clip("a", (1.0,))], target_names=["x"], label_range=label_range)

    def test_a_range_belongs_to_a_regression(self):
        with pytest.raises(UsageError, match="belongs to problem_type='regression'"):
            build(label_range=(0, 1))

    @pytest.mark.parametrize("columns", ["", "a,,b", "a,a"])
    def test_wrong_label_columns(self, tmp_path, columns):
        with pytest.raises(UsageError, match="label_column"):
            load_audio_folder(tmp_path, label_column=columns, problem_type="regression")

    def test_encoding_a_foreign_clip(self):
        with pytest.raises(DataError, match="'far' has the label 'q', unknown to notes"):
            build().encode(clip("far", "q"))

    @given(st.lists(st.integers(-1000, 1000), unique=True))
    def test_numbers_sort_as_numbers(self, numbers):
        assert sort_labels(map(str, numbers)) == [str(number) for number in sorted(numbers)]

    @pytest.mark.parametrize("odd", ["nan", "inf", "x"])
    def test_other_names_sort_alphabetically(self, odd):
        assert sort_labels(["10", "9", odd]) == sorted(["10", "9", odd])


class TestHoldOut:
    clips = tuple(clip(str(number), "common" if number % 10 else "rare") for number in range(100))

    @given(fraction=st.floats(0.01, 0.5), seed=st.integers(0, 2**32))
    def test_every_class_gives_its_part(self, fraction, seed):
        train, validation = hold_out_validation(list(self.clips), fraction, seed)
        assert sorted(train + validation, key=id) == sorted(self.clips, key=id)
        counts = Counter(entry.label for entry in validation)
        assert counts == {"common": max(1, round(fraction * 90)), "rare": max(1, round(fraction * 10))}

    def test_equal_seeds_draw_equal_clips(self):
        first, again, other = (hold_out_validation(list(self.clips), 0.2, seed)[1] for seed in (1, 1, 2))
        assert first == again
        assert first != other

    def test_a_lone_clip_stays_in_training(self):
        train, validation = hold_out_validation([clip("a", "x"), clip("b", "y"), clip("c", "y")], 0.5, 0)
        assert [entry.label for entry in train] == ["x", "y"]
        assert [entry.label for entry in validation] == ["y"]

    def test_fractions(self):
        assert hold_out_validation(list(self.clips), 0, 0) == (list(self.clips), [])
        for fraction in (-0.1, 0.6, float("nan")):
            with pytest.raises(UsageError, match=r"between 0 and 0\.5"):
                hold_out_validation(list(self.clips), fraction, 0)
