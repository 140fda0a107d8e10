"""Writing scores and other results whole or not at all."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hf_audio_mamba.errors import OutputError

if TYPE_CHECKING:
    from symusic import Score


def save_score(score: "Score", path: str | os.PathLike[str]) -> Path:
    """Write a score as a Standard MIDI File, whole or not at all.

    Returns:
        The path written; missing folders are made.

    Raises:
        OutputError: If the file cannot be written; one that was there before stays whole.
    """
    return write_whole(path, score.to("tick").dumps_midi())


def write_whole(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write a file so that no half of it is ever seen.

    Raises:
        OutputError: If it cannot be written.
    """
    target = Path(path)
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp makes files private
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror or error}. Free space there or choose another output."
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return target
