"""Fetching MAESTRO (Hawthorne et al., ICLR 2019): 1276 piano performances as MIDI, 199 hours, with official splits.

Its licence is CC BY-NC-SA 4.0: not for commercial use, and neither is what is derived from it, such as weights.
"""

import hashlib
import logging
import os
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hf_audio_mamba.errors import DataError, OutputError

logger = logging.getLogger(__name__)

LICENSE = "CC BY-NC-SA 4.0 (https://creativecommons.org/licenses/by-nc-sa/4.0/), non-commercial"
_SUFFIXES = {".midi", ".mid", ".csv", ".json", ".txt", ""}
_CHUNK = 1 << 20
_TIMEOUT_S = 60


@dataclass(frozen=True)
class Archive:
    """An archive on the net.

    Attributes:
        url: Where it is.
        sha256: Checksum of the file.
        max_bytes: More than this is refused, packed or unpacked.
    """

    url: str
    sha256: str
    max_bytes: int = 1 << 30


MAESTRO_V3 = Archive(
    url="https://storage.googleapis.com/magentadata/datasets/maestro/v3.0.0/maestro-v3.0.0-midi.zip",
    sha256="70470ee253295c8d2c71e6d9d4a815189e35c89624b76d22fce5a019d5dde12c",
)


def download_maestro(folder: str | os.PathLike[str], *, archive: Archive = MAESTRO_V3) -> Path:
    """Fetch MAESTRO v3.0.0 (58 MB of MIDI, no audio), check it, and unpack it; nothing happens where it is there.

    Args:
        folder: Where to put it; it appears there whole or not at all.
        archive: Another archive with a csv and the files it names in one folder.

    Returns:
        The folder that holds the csv, for `find_pieces`.

    Raises:
        DataError: If it cannot be reached, or is not what its checksum says; the message tells how to do it by hand.
        OutputError: If it cannot be written.
    """
    target = Path(folder)
    if (found := _folder_of_csv(target)) is not None:
        return found
    logger.info("MAESTRO is licensed %s. Fetching %s.", LICENSE, archive.url)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".maestro-") as scratch:
            packed, unpacked = Path(scratch, "archive.zip"), Path(scratch, "unpacked")
            _fetch(archive, packed, target)
            _unpack(packed, unpacked, archive)
            if _folder_of_csv(unpacked) is None:
                raise DataError(f"{archive.url} holds no csv with the splits.")
            target.mkdir(exist_ok=True)
            for entry in unpacked.iterdir():
                shutil.move(str(entry), target / entry.name)
    except OSError as error:
        raise OutputError(f"MAESTRO cannot be written to {target}: {error.strerror or error}.") from error
    return _folder_of_csv(target) or target


def _folder_of_csv(folder: Path) -> Path | None:
    tables = sorted([*folder.glob("maestro*.csv"), *folder.glob("*/maestro*.csv")])
    return tables[0].parent if tables else None


def _fetch(archive: Archive, path: Path, target: Path) -> None:
    digest, size = hashlib.sha256(), 0
    by_hand = (
        f"Fetch {archive.url} elsewhere, unpack it to {target}, so that the csv and the folders 2004 to 2018 are in it "
        "or one level below, and start again."
    )
    try:
        with urllib.request.urlopen(archive.url, timeout=_TIMEOUT_S) as response, path.open("wb") as file:
            while chunk := response.read(_CHUNK):
                size += len(chunk)
                if size > archive.max_bytes:
                    raise DataError(f"{archive.url} has more than {archive.max_bytes:,} bytes. {by_hand}")
                digest.update(chunk)
                file.write(chunk)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"MAESTRO cannot be fetched ({reason}). {by_hand}") from error
    if digest.hexdigest() != archive.sha256:
        raise DataError(
            f"{archive.url} gave {size:,} bytes with the SHA-256 {digest.hexdigest()}, not {archive.sha256}. {by_hand}"
        )


def _unpack(packed: Path, folder: Path, archive: Archive) -> None:
    """Unpack MIDI files, tables and texts, each to a path within the folder."""
    try:
        with zipfile.ZipFile(packed) as members:
            total = sum(member.file_size for member in members.infolist())
            if total > archive.max_bytes:
                raise DataError(f"{archive.url} unpacks to {total:,} bytes, more than {archive.max_bytes:,}.")
            for member in members.infolist():
                name = PurePosixPath(member.filename)
                if name.is_absolute() or ".." in name.parts:
                    raise DataError(f"{archive.url} names {member.filename!r}, a path outside of itself.")
                if not member.is_dir() and name.suffix.lower() in _SUFFIXES:
                    members.extract(member, folder)
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive.url} is no zip archive: {error}.") from error
