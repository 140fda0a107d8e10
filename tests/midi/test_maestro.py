"""Fetching MAESTRO, from a server on this machine."""

import functools
import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_audio_mamba.errors import DataError
from hf_audio_mamba.midi import download_maestro, find_pieces
from hf_audio_mamba.midi.maestro import Archive
from tests.midi.midi_bytes import random_piece

TABLE = "canonical_composer,canonical_title,split,midi_filename\nA,B,train,2004/a.midi\nA,C,test,2004/b.midi\n"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def pack(path: Path, extra: dict[str, str] | None = None) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("maestro-v9/maestro-v9.csv", TABLE)
        for index, name in enumerate("ab"):
            archive.writestr(f"maestro-v9/2004/{name}.midi", random_piece(index))
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_is_fetched_checked_and_unpacked_once(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    checksum = pack(folder / "m.zip", {"maestro-v9/tool.exe": "no"})
    archive = Archive(f"{address}/m.zip", checksum)
    found = download_maestro(tmp_path / "data", archive=archive)
    assert {split: len(pieces) for split, pieces in find_pieces(found).pieces.items()} == {
        "train": 1,
        "validation": 0,
        "test": 1,
    }
    assert not list(tmp_path.rglob("*.exe"))
    (folder / "m.zip").unlink()
    assert download_maestro(tmp_path / "data", archive=archive) == found


def test_a_wrong_checksum_leaves_nothing_behind(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    pack(folder / "m.zip")
    with pytest.raises(DataError, match="SHA-256"):
        download_maestro(tmp_path / "data", archive=Archive(f"{address}/m.zip", "0" * 64))
    assert [path.name for path in tmp_path.iterdir()] == ["served"]


@pytest.mark.parametrize("name", ["../evil.midi", "/evil.midi"])
def test_paths_out_of_the_archive_are_refused(served: tuple[Path, str], tmp_path: Path, name: str) -> None:
    folder, address = served
    checksum = pack(folder / "m.zip", {name: "x"})
    with pytest.raises(DataError, match="outside of itself"):
        download_maestro(tmp_path / "data", archive=Archive(f"{address}/m.zip", checksum))
    assert not list(tmp_path.rglob("evil*"))


def test_bounds_and_absent_servers_say_what_to_do(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    checksum = pack(folder / "m.zip")
    with pytest.raises(DataError, match="more than 100 bytes"):
        download_maestro(tmp_path / "data", archive=Archive(f"{address}/m.zip", checksum, max_bytes=100))
    with pytest.raises(DataError, match=r"cannot be fetched.*Fetch http.*elsewhere, unpack it to"):
        download_maestro(tmp_path / "data", archive=Archive("http://127.0.0.1:9/m.zip", checksum))
    with pytest.raises(DataError, match="File not found"):
        download_maestro(tmp_path / "data", archive=Archive(f"{address}/absent.zip", checksum))
    (folder / "t.zip").write_text("text")
    with pytest.raises(DataError, match="no zip archive"):
        download_maestro(tmp_path / "data", archive=Archive(f"{address}/t.zip", hashlib.sha256(b"text").hexdigest()))
