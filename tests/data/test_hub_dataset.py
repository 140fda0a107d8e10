import io

import datasets
import numpy as np
import pytest
import soundfile

from hf_audio_mamba.data import compute_features, load_hub_dataset
from hf_audio_mamba.errors import DataError, UsageError

ROWS = 12
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def folder(tmp_path_factory):
    """A folder without `test` in its path, in which `datasets` would see the name of a split."""
    return tmp_path_factory.mktemp("hub")


@pytest.fixture
def quiet(tmp_path, monkeypatch):
    """No bars, and nothing in the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    yield
    if shown:
        datasets.enable_progress_bars()


def encoded_tone(number: int) -> bytes:
    buffer = io.BytesIO()
    samples = 0.5 * np.sin(2 * np.pi * (200 + 20 * number) * np.arange(1600) / 8000)
    soundfile.write(buffer, samples, 8000, format="FLAC")
    return buffer.getvalue()


def write_parquet(folder, split, *, rows=ROWS, as_audio=True, **columns):
    """One parquet file; `columns` maps names to (values, feature)."""
    struct = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    content = {"audio": [{"bytes": encoded_tone(number), "path": f"{number}.flac"} for number in range(rows)]}
    features = {"audio": struct}
    for name, (values, feature) in columns.items():
        content[name], features[name] = values, feature
    data = datasets.Dataset.from_dict(content, features=datasets.Features(features))
    if as_audio:
        data = data.cast_column("audio", datasets.Audio(decode=False))
    folder.mkdir(parents=True, exist_ok=True)
    data.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def class_label(*names):
    return datasets.ClassLabel(names=list(names))


@pytest.mark.parametrize("as_audio", [True, False])
def test_class_labels_and_audio_without_torchcodec(folder, extractor, as_audio):
    labels = [number % 2 for number in range(ROWS)]
    for split in ("train", "validation", "test"):
        write_parquet(folder / "tones", split, as_audio=as_audio, label=(labels, class_label("low", "high")))
    dataset = load_hub_dataset(str(folder / "tones"))
    assert dataset.name == "tones"
    assert dataset.label_names == ["high", "low"]
    assert dataset.info["clips"] == "train 12, validation 12, test 12"
    assert [clip.label for clip in dataset.splits["test"]] == ["low", "high"] * 6
    table = compute_features(dataset.splits["train"], extractor, cache_dir=None, num_workers=2)
    for index in range(ROWS):
        samples, rate = soundfile.read(io.BytesIO(encoded_tone(index)), dtype="float32")
        np.testing.assert_array_equal(table.load(index), extractor(samples, sampling_rate=rate)["input_values"][0])


def test_slices_and_a_held_out_part(folder):
    labels = ["a", "b"] * 6
    write_parquet(folder, "train", label=(labels, datasets.Value("string")))
    dataset = load_hub_dataset(str(folder), train_split="train[:8]", test_split="train[8:]", validation_fraction=0.25)
    assert {split: len(clips) for split, clips in dataset.splits.items()} == {"train": 6, "validation": 2, "test": 4}
    assert dataset.splits["test"][0].content() == encoded_tone(8)
    assert "25%" in dataset.info["validation"]


def test_folds(folder):
    columns = {
        "label": (["a", "b"] * 6, datasets.Value("string")),
        "fold": ([number // 4 + 1 for number in range(ROWS)], datasets.Value("int64")),
    }
    write_parquet(folder, "train", **columns)
    dataset = load_hub_dataset(str(folder), fold=2)
    assert dataset.splits["test"][0].content() == encoded_tone(4)
    assert dataset.splits["validation"][0].content() == encoded_tone(8)
    assert dataset.info["clips"] == "train 4, validation 4, test 4"
    with pytest.raises(UsageError, match="leave out validation_split"):
        load_hub_dataset(str(folder), fold=2, test_split="test")
    with pytest.raises(UsageError, match="needs fold"):
        load_hub_dataset(str(folder), validation_fold=2)


def test_lists_of_labels_and_numbers(folder):
    tags = [[0, 1], [1], []] * 4
    values = [number / 10 for number in range(ROWS)]
    columns = {
        "tags": (tags, datasets.List(class_label("loud", "rock; hard"))),
        "valence": (values, datasets.Value("float64")),
        "arousal": (list(range(ROWS)), datasets.Value("int32")),
    }
    write_parquet(folder, "train", **columns)
    options = {"validation_fraction": 0}
    dataset = load_hub_dataset(str(folder), label_column="tags", problem_type="multi_label_classification", **options)
    assert [clip.label for clip in dataset.splits["train"][:3]] == [("loud", "rock; hard"), ("rock; hard",), ()]
    dataset = load_hub_dataset(str(folder), label_column="arousal,valence", problem_type="regression", **options)
    assert dataset.encode(dataset.splits["train"][3]) == [3.0, 0.3]
    with pytest.raises(DataError, match="the label is a list"):
        load_hub_dataset(str(folder), label_column="tags")


def test_missing_columns_labels_and_splits(folder):
    labels = ["a", "b"] * 5 + ["a", None]
    write_parquet(folder, "train", label=(labels, datasets.Value("string")))
    with pytest.raises(DataError, match="no column 'genre'; its columns are: audio, label"):
        load_hub_dataset(str(folder), label_column="genre")
    with pytest.raises(DataError, match="no column 'sound'"):
        load_hub_dataset(str(folder), audio_column="sound")
    with pytest.raises(DataError, match=r"'label' of .* does not hold audio"):
        load_hub_dataset(str(folder), audio_column="label")
    with pytest.raises(DataError, match="train/000011: the label is empty"):
        load_hub_dataset(str(folder))
    with pytest.raises(DataError, match='Unknown split "eval"'):
        load_hub_dataset(str(folder), train_split="eval")
    with pytest.raises(DataError, match="'other' not found"):
        load_hub_dataset(str(folder), config_name="other")


def test_unlabelled_rows_of_class_labels(folder):
    write_parquet(folder, "train", label=([0, 1] * 5 + [-1, 0], class_label("a", "b")))
    with pytest.raises(DataError, match="train/000010: the label is empty"):
        load_hub_dataset(str(folder))


def test_rows_without_audio_are_skipped_as_corrupt(folder, extractor):
    struct = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    rows = {
        "audio": [{"bytes": encoded_tone(0), "path": None}, {"bytes": None, "path": "gone.wav"}, None],
        "label": ["a", "b", "b"],
    }
    features = datasets.Features({"audio": struct, "label": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
    clips = load_hub_dataset(str(folder), validation_fraction=0).splits["train"]
    table = compute_features(clips, extractor, cache_dir=None, max_corrupt_fraction=0.9)
    assert table.kept == [0]
    assert "gone.wav" in table.skipped[0][1]


@pytest.mark.parametrize("dataset_id", ["nobody/nothing", "not a name!!", "./nowhere"])
def test_out_of_reach(dataset_id):
    with pytest.raises(DataError, match=r"cannot load the data set .*Check its name"):
        load_hub_dataset(dataset_id)


def test_damaged_files(folder):
    (folder / "train.parquet").write_bytes(b"PAR1 but nothing else")
    with pytest.raises(DataError, match="cannot load the data set"):
        load_hub_dataset(str(folder))


def test_audio_folders_are_pointed_to_their_own_loader(folder, write_tone):
    write_tone(folder / "train" / "a" / "a.wav")
    with pytest.raises(DataError, match="read with load_audio_folder"):
        load_hub_dataset(str(folder))
