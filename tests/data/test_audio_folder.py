import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_audio_mamba.data import AudioDataset, load_audio_folder
from hf_audio_mamba.errors import DataError, UsageError


def labels(dataset: AudioDataset, split: str) -> dict[str, object]:
    return {clip.name: clip.label for clip in dataset.splits[split]}


def make_splits(root, write_table) -> Path:
    write_table(root / "train" / "metadata.csv", "file_name,label", "a.wav,cat", "b.wav,dog", "c.wav,cat")
    write_table(root / "validation" / "metadata.csv", "file_name,label", "a.wav,dog", first_frequency_hz=300)
    write_table(root / "test" / "metadata.csv", "file_name,label", "a.wav,cat", first_frequency_hz=400)
    return root


class TestLayouts:
    def test_split_folders_with_metadata(self, tmp_path, write_table):
        dataset = load_audio_folder(make_splits(tmp_path, write_table))
        assert labels(dataset, "train") == {"train/a.wav": "cat", "train/b.wav": "dog", "train/c.wav": "cat"}
        assert labels(dataset, "validation") == {"validation/a.wav": "dog"}
        assert labels(dataset, "test") == {"test/a.wav": "cat"}
        assert dataset.label_names == ["cat", "dog"]
        assert [dataset.encode(clip) for clip in dataset.splits["train"]] == [0, 1, 0]
        assert all(clip.path.is_file() for clip in dataset.splits["train"])

    def test_split_folders_with_class_folders_take_only_audio(self, tmp_path, write_tone):
        write_tone(tmp_path / "train" / "cat" / "a.wav", 300)
        write_tone(tmp_path / "train" / "dog" / "deeper" / "b.FLAC", 310)
        write_tone(tmp_path / "valid" / "dog" / "c.wav", 320)
        (tmp_path / "train" / "cat" / "notes.txt").write_text("no audio")
        (tmp_path / "train" / ".cache").mkdir()
        dataset = load_audio_folder(tmp_path)
        assert labels(dataset, "train") == {"train/cat/a.wav": "cat", "train/dog/deeper/b.FLAC": "dog"}
        assert labels(dataset, "validation") == {"valid/dog/c.wav": "dog"}
        assert "test" not in dataset.splits

    def test_class_folders_alone_are_training_data(self, tmp_path, write_tone):
        for number in range(20):
            write_tone(tmp_path / f"class{number % 2}" / f"{number}.wav", 200 + 5 * number)
        dataset = load_audio_folder(tmp_path, validation_fraction=0.2)
        assert {split: len(clips) for split, clips in dataset.splits.items()} == {"train": 16, "validation": 4}
        assert "20%" in dataset.info["validation"]

    def test_one_table_with_a_split_column(self, tmp_path, write_table):
        write_table(
            tmp_path / "metadata.csv",
            "file_name,label,split",
            "x/a.wav,1,train",
            "x/b.wav,10,training",
            "y/c.wav,1,dev",
            "y/d.wav,10,Test",
            "y/e.wav,2,train",
        )
        dataset = load_audio_folder(tmp_path)
        assert {split: [clip.name for clip in clips] for split, clips in dataset.splits.items()} == {
            "train": ["x/a.wav", "x/b.wav", "y/e.wav"],
            "validation": ["y/c.wav"],
            "test": ["y/d.wav"],
        }
        assert dataset.label_names == ["1", "2", "10"], "numbers sort as numbers"

    def test_a_table_elsewhere_lists_files_of_the_data_folder(self, tmp_path, write_tone):
        write_tone(tmp_path / "data" / "train" / "a.wav", 300)
        write_tone(tmp_path / "data" / "train" / "b.wav", 310)
        write_tone(tmp_path / "lists" / "c.wav", 320)
        table = tmp_path / "lists" / "mine.csv"
        table.write_text("file_name,label,split\ntrain/a.wav,x,train\ntrain/b.wav,y,train\nc.wav,x,test\n")
        dataset = load_audio_folder(tmp_path / "data", metadata=table, validation_fraction=0)
        assert [clip.name for clip in dataset.splits["train"]] == ["train/a.wav", "train/b.wav"]
        assert dataset.splits["test"][0].path == tmp_path / "lists" / "c.wav"

    def test_a_table_may_be_named_relative_to_the_data_folder(self, tmp_path, write_table):
        write_table(tmp_path / "hard.csv", "file_name,label,split", "a.wav,x,train", "b.wav,y,train", "c.wav,x,test")
        assert load_audio_folder(tmp_path, metadata="hard.csv").info["metadata"] == "hard.csv"

    def test_another_label_column(self, tmp_path, write_table):
        write_table(tmp_path / "metadata.csv", "file_name,pitch,player", "a.wav,60,ann", "b.wav,60,bob")
        assert load_audio_folder(tmp_path, label_column="player").label_names == ["ann", "bob"]


class TestFolds:
    @pytest.fixture
    def root(self, tmp_path, write_table):
        lines = [f"{fold}{label}.wav,{label},{fold}" for fold in (1, 2, 10) for label in "xy"]
        write_table(tmp_path / "metadata.csv", "file_name,label,fold", *lines)
        return tmp_path

    def test_without_a_validation_fold_all_others_train(self, root):
        dataset = load_audio_folder(root, fold=2, validation_fold="none", validation_fraction=0.5)
        assert {split: len(clips) for split, clips in dataset.splits.items() if clips} == {"train": 4, "test": 2}
        assert "test on fold 2, training on 1, 10" in dataset.info["folds"]

    @pytest.mark.parametrize(("fold", "validation", "train"), [(1, "2", "10"), (2, "10", "1"), ("10", "1", "2")])
    def test_the_next_fold_is_for_validation(self, root, fold, validation, train):
        dataset = load_audio_folder(root, fold=fold)
        found = {split: [clip.name for clip in clips] for split, clips in dataset.splits.items()}
        assert found == {
            "train": [f"{train}x.wav", f"{train}y.wav"],
            "validation": [f"{validation}x.wav", f"{validation}y.wav"],
            "test": [f"{fold}x.wav", f"{fold}y.wav"],
        }
        assert f"test on fold {fold}, validation on fold {validation}" in dataset.info["folds"]

    def test_the_validation_fold_can_be_chosen(self, root):
        dataset = load_audio_folder(root, fold=1, validation_fold=10)
        assert [clip.name for clip in dataset.splits["train"]] == ["2x.wav", "2y.wav"]

    def test_two_folds_leave_validation_to_a_part_of_the_other(self, tmp_path, write_table):
        lines = [f"{fold}{label}{take}.wav,{label},{fold}" for fold in "ab" for label in "xy" for take in range(4)]
        write_table(tmp_path / "metadata.csv", "file_name,label,fold", *lines)
        dataset = load_audio_folder(tmp_path, fold="a", validation_fraction=0.25)
        assert {split: len(clips) for split, clips in dataset.splits.items()} == {
            "train": 6,
            "validation": 2,
            "test": 8,
        }
        assert all(clip.name.startswith("b") for clip in dataset.splits["validation"])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "fold, one of 1, 10, 2"),
            ({"fold": 7}, "'7' is not in .*1, 2, 10"),
            ({"fold": 1, "validation_fold": 1}, "must not choose the model"),
            ({"validation_fold": 1}, "needs fold"),
        ],
    )
    def test_wrong_folds(self, root, options, message):
        with pytest.raises(UsageError, match=message):
            load_audio_folder(root, **options)

    def test_fold_without_a_fold_column(self, tmp_path, write_table):
        write_table(tmp_path / "metadata.csv", "file_name,label", "a.wav,x", "b.wav,y")
        with pytest.raises(UsageError, match="needs a column 'fold'"):
            load_audio_folder(tmp_path, fold=1)
        with pytest.raises(UsageError, match="needs a CSV file"):
            load_audio_folder(make_splits(tmp_path / "splits", write_table), fold=1)

    def test_a_single_fold_is_an_error(self, tmp_path, write_table):
        write_table(tmp_path / "metadata.csv", "file_name,label,fold", "a.wav,x,1", "b.wav,y,1")
        with pytest.raises(DataError, match="only one value"):
            load_audio_folder(tmp_path, fold=1)


class TestTables:
    def test_bom_crlf_and_quotes(self, tmp_path, write_tone):
        write_tone(tmp_path / 'a, "quoted".wav', 300)
        write_tone(tmp_path / "ä.wav", 310)
        text = '\ufefffile_name,comment,label\r\n"a, ""quoted"".wav","two\r\nlines","big, bad"\r\nä.wav,,wölf\r\n'
        (tmp_path / "metadata.csv").write_bytes(text.encode())
        dataset = load_audio_folder(tmp_path)
        assert labels(dataset, "train") == {'a, "quoted".wav': "big, bad", "ä.wav": "wölf"}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "no column 'file_name'"),
            (b"file_name,label\n", "lists no files"),
            (b"file_name,class\na.wav,x\n", "no column 'label'; its columns are: file_name, class"),
            (b"file_name;label\na.wav;x\n", "no column 'file_name'; its columns are: file_name;label"),
            (b"file_name,label,label\na.wav,x,x\n", "'label' twice"),
            (b"file_name,label\na.wav\n", "line 2: the number of cells"),
            (b"file_name,label\na.wav,x,y\n", "line 2: the number of cells"),
            (b"file_name,label\na.wav,x\nmissing.wav,y\n", "line 3: there is no file 'missing.wav' in"),
            (b"file_name,label\na.wav,x\na.wav,y\n", "'a.wav' is listed twice, in lines 2 and 3"),
            (b"file_name,label\na.wav,x\n./a.wav,y\n", "listed twice"),
            (b"file_name,label\na.wav, \n", "line 2: the label is empty"),
            (b"file_name,label\n,x\n", "file_name is empty"),
            (b"file_name,label\na.wav,\xff\n", "not a CSV file in UTF-8"),
            (b'file_name,label\na.wav,"x\n', "not a CSV file in UTF-8"),
            (b"file_name,label\n.,x\n", "there is no file"),
            (b"file_name,label\n" + b"a" * 5000 + b",x\n", "there is no file"),
            (b"file_name,label\na\x00b,x\n", "metadata.csv"),
            (b"file_name,label\na.wav," + b"x" * 200_000 + b"\n", "field larger than field limit"),
            (b"file_name,label,split\na.wav,x,holdout\n", "split 'holdout'"),
        ],
    )
    def test_bad_tables_are_named(self, tmp_path, write_tone, content, message):
        write_tone(tmp_path / "a.wav")
        (tmp_path / "metadata.csv").write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            load_audio_folder(tmp_path)
        assert "metadata.csv" in str(caught.value)

    @pytest.mark.parametrize(
        "name", ["../secret.wav", "sub/../../secret.wav", "..", "C:\\secret.wav", "\\\\host\\share\\a.wav", "ABSOLUTE"]
    )
    def test_paths_out_of_the_folder_are_refused(self, tmp_path, write_tone, name):
        secret = write_tone(tmp_path / "secret.wav")
        (tmp_path / "data").mkdir()
        name = str(secret) if name == "ABSOLUTE" else name
        (tmp_path / "data" / "metadata.csv").write_text(f"file_name,label\n{name},x\n")
        with pytest.raises(DataError, match="leads out of the data folder"):
            load_audio_folder(tmp_path / "data")

    def test_a_pipe_is_not_a_file(self, tmp_path):
        os.mkfifo(tmp_path / "a.wav")
        (tmp_path / "metadata.csv").write_text("file_name,label\na.wav,x\n")
        with pytest.raises(DataError, match="there is no file"):
            load_audio_folder(tmp_path)

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        content=st.binary(max_size=200) | st.text(alphabet='file_nam,lb"\n\r\x00.;a/wv', max_size=80).map(str.encode)
    )
    def test_any_bytes_give_a_data_error(self, tmp_path, content):
        (tmp_path / "metadata.csv").write_bytes(content)
        with pytest.raises(DataError):
            load_audio_folder(tmp_path)


class TestFolders:
    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(DataError, match=r"neither a metadata\.csv nor subfolders"):
            load_audio_folder(tmp_path)

    def test_an_empty_training_folder(self, tmp_path, write_table):
        make_splits(tmp_path, write_table)
        (tmp_path / "train" / "metadata.csv").unlink()
        with pytest.raises(DataError, match="train has neither"):
            load_audio_folder(tmp_path)

    def test_a_missing_folder_and_a_missing_table(self, tmp_path):
        with pytest.raises(DataError, match="does not exist or is not a folder"):
            load_audio_folder(tmp_path / "nowhere")
        with pytest.raises(DataError, match=r"none\.csv does not exist"):
            load_audio_folder(tmp_path, metadata="none.csv")

    def test_two_folders_for_one_split(self, tmp_path, write_table):
        make_splits(tmp_path, write_table)
        (tmp_path / "dev").mkdir()
        with pytest.raises(DataError, match="both the validation split"):
            load_audio_folder(tmp_path)

    def test_class_folders_cannot_hold_numbers(self, tmp_path, write_tone):
        write_tone(tmp_path / "cat" / "a.wav")
        with pytest.raises(DataError, match="cannot hold labels for regression"):
            load_audio_folder(tmp_path, problem_type="regression")

    def test_an_unknown_problem_type(self, tmp_path):
        with pytest.raises(UsageError, match="'clustering' is not one of single_label"):
            load_audio_folder(tmp_path, problem_type="clustering")


class TestRealData:
    """Counts are those of the READMEs beside the data."""

    def test_philharmonia_folders(self, shared_data):
        with pytest.raises(
            DataError, match="3 validation and 9 test clips have labels that training never sees: 97, 101"
        ):
            load_audio_folder(shared_data / "philharmonia", label_column="pitch")
        dataset = load_audio_folder(shared_data / "philharmonia", label_column="pitch", unseen_labels="drop")
        assert len(dataset.label_names) == 78
        assert dataset.label_names[0] == "22"
        assert dataset.info["clips"] == "train 4104, validation 640, test 701"

    def test_philharmonia_tables(self, shared_data):
        root = shared_data / "philharmonia"
        dataset = load_audio_folder(root, metadata="unseen_dynamics.csv", label_column="instrument")
        assert len(dataset.label_names) == 12
        assert dataset.info["clips"] == "train 3156, validation 434, test 1867"
        with pytest.raises(
            DataError, match=r"french-horn_E2_1_fortissimo.* in validation and .*oboe_E6_15_mezzo-forte"
        ):
            load_audio_folder(root, metadata="unseen_instruments.csv", label_column="pitch")

    def test_esc10_folds_cover_everything(self, shared_data):
        tested = []
        for fold in range(1, 6):
            dataset = load_audio_folder(shared_data / "esc10", fold=fold)
            assert sum(len(clips) for clips in dataset.splits.values()) == 398
            tested += [clip.name for clip in dataset.splits["test"]]
        assert len(tested) == len(set(tested)) == 398

    def test_fsdd_gets_a_validation_part(self, shared_data):
        dataset = load_audio_folder(shared_data / "fsdd")
        assert dataset.info["clips"] == "train 490, validation 50, test 120"
        assert dataset.label_names == [str(digit) for digit in range(10)]
