"""Splits: official where there are some, else by composition, and nothing is ever on both sides."""

import csv
import io
import tarfile
from pathlib import Path

import pytest

from hf_audio_mamba.errors import DataError, UsageError
from hf_audio_mamba.midi import find_pieces
from hf_audio_mamba.midi.pieces import PieceSplits
from tests.midi.midi_bytes import random_piece, write_pieces


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def names(found: PieceSplits) -> dict[str, list[str]]:
    return {split: [piece.name for piece in pieces] for split, pieces in found.pieces.items()}


def maestro(folder: Path) -> list[dict[str, str]]:
    write_pieces(folder / "2004", range(4), ".midi")
    splits = ["train", "train", "validation", "test"]
    rows = [
        {"canonical_composer": "A", "canonical_title": f"T{i}", "split": split, "midi_filename": f"2004/piece{i}.midi"}
        for i, split in enumerate(splits)
    ]
    write_table(folder / "maestro-v3.0.0.csv", rows)
    return rows


def test_maestro_has_its_official_splits(tmp_path: Path) -> None:
    maestro(tmp_path)
    found = find_pieces(tmp_path)
    assert found.name == "maestro-v3.0.0"
    assert names(found) == {
        "train": ["2004/piece0.midi", "2004/piece1.midi"],
        "validation": ["2004/piece2.midi"],
        "test": ["2004/piece3.midi"],
    }
    (tmp_path / "2004" / "piece3.midi").unlink()
    with pytest.raises(DataError, match=r"piece3\.midi, which is not in"):
        find_pieces(tmp_path)


def test_files_within_an_archive_are_read_without_unpacking(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "midi.tar.gz", "w:gz") as archive:
        for index in range(3):
            content = random_piece(index)
            member = tarfile.TarInfo(f"midi/{index}.mid")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    splits = ["train", "validation", "test"]
    rows = [{"file_name": f"midi/{index}.mid", "split": split} for index, split in enumerate(splits)]
    write_table(tmp_path / "metadata.csv", rows)
    found = find_pieces(tmp_path)
    assert [found.pieces[split][0].source for split in splits] == [random_piece(index) for index in range(3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metadata.csv", "midi.tar.gz"]
    write_table(tmp_path / "metadata.csv", [*rows, {"file_name": "midi/9.mid", "split": "test"}])
    with pytest.raises(DataError, match=r"midi/9\.mid, which is neither"):
        find_pieces(tmp_path)


@pytest.mark.parametrize(("dataset", "sizes"), [("maestro_asap", (377, 38, 44)), ("pop909", (725, 92, 92))])
def test_real_data_sets_have_their_published_splits(shared_data: Path, dataset: str, sizes: tuple[int, ...]) -> None:
    found = find_pieces(shared_data / dataset)
    assert tuple(len(found.pieces[split]) for split in ("train", "validation", "test")) == sizes


def test_a_folder_is_split_by_composition(tmp_path: Path) -> None:
    for index in range(20):
        write_pieces(tmp_path / "Bach" / f"fugue{index}", [3 * index, 3 * index + 1, 3 * index + 2])
    write_pieces(tmp_path / "loose", range(100, 110), ".MID")
    found = find_pieces(tmp_path, seed=1)
    owners = {piece.composition: split for split, pieces in found.pieces.items() for piece in pieces}
    assert len(owners) == 30
    assert sum(map(len, found.pieces.values())) == 70
    for split, pieces in found.pieces.items():
        assert len({piece.composition for piece in pieces}) == {"train": 24, "validation": 3, "test": 3}[split]
        assert all(owners[piece.composition] == split for piece in pieces)
    assert names(find_pieces(tmp_path, seed=1)) == names(found) != names(find_pieces(tmp_path, seed=2))
    assert not find_pieces(tmp_path, validation_fraction=0, test_fraction=0.5).pieces["validation"]


def test_copies_follow_the_first_file(tmp_path: Path) -> None:
    for name in "abcdefgh":
        write_pieces(tmp_path / name, [0])
    write_pieces(tmp_path / "others", range(1, 20))
    for seed in range(5):
        found = find_pieces(tmp_path, seed=seed)
        holding = [split for split, pieces in found.pieces.items() if any("piece0" in p.name for p in pieces)]
        assert len(holding) == 1


def test_split_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    write_pieces(tmp_path / "train", [0, 1])
    write_pieces(tmp_path / "test", [2])
    assert names(find_pieces(tmp_path)) == {
        "train": ["train/piece0.mid", "train/piece1.mid"],
        "validation": [],
        "test": ["test/piece2.mid"],
    }
    write_pieces(tmp_path / "validation", [1])
    with pytest.raises(DataError, match=r"content of validation/piece1\.mid.*train/piece1\.mid"):
        find_pieces(tmp_path)


def test_leaks_and_nonsense_in_tables_are_refused(tmp_path: Path) -> None:
    write_pieces(tmp_path, range(3))
    rows = [
        {"file_name": f"piece{index}.mid", "split": split, "composer": "A", "title": "B"}
        for index, split in enumerate(["train", "train", "test"])
    ]
    write_table(tmp_path / "metadata.csv", rows)
    with pytest.raises(DataError, match=r"composition piece2\.mid \(test\) is in the train split too"):
        find_pieces(tmp_path)
    write_table(tmp_path / "metadata.csv", [rows[0] | {"split": "dev"}])
    with pytest.raises(DataError, match="split 'dev'"):
        find_pieces(tmp_path)
    write_table(tmp_path / "metadata.csv", [rows[0] | {"file_name": "../piece0.mid"}])
    with pytest.raises(DataError, match="no path within"):
        find_pieces(tmp_path)
    write_table(tmp_path / "metadata.csv", [rows[0] | {"split": "test"}])
    with pytest.raises(DataError, match="no training pieces"):
        find_pieces(tmp_path)


def test_folders_without_pieces_say_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no MIDI files.*metadata"):
        find_pieces(tmp_path)
    with pytest.raises(DataError, match="There is no folder"):
        find_pieces(tmp_path / "absent")
    with pytest.raises(UsageError, match="below 1 together"):
        find_pieces(tmp_path, validation_fraction=0.5, test_fraction=0.5)
