"""Making a figure without pyplot and writing it whole or not at all.

pyplot keeps every figure in a global list and picks a window system; a library that draws in the background
of a training run wants neither, so figures are made by matplotlib's object interface, which draws with Agg.
"""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hf_audio_mamba._optional import require
from hf_audio_mamba.errors import OutputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS_PER_INCH = 120


def new_figure(width: float, height: float, *, purpose: str) -> "Figure":
    """Make an empty figure whose parts keep out of each other's way.

    Args:
        width: Width in inches.
        height: Height in inches.
        purpose: What is drawn, for the message when matplotlib is missing.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure_module = require("matplotlib.figure", extra="viz", purpose=purpose)
    figure: Figure = figure_module.Figure(figsize=(width, height), layout="constrained")
    return figure


def save_figure(figure: "Figure", path: str | Path) -> Path:
    """Write a figure as PNG; a file that was there before stays whole until the new one is complete.

    Args:
        figure: The figure.
        path: Where to write; missing folders are made.

    Returns:
        The path written.

    Raises:
        OutputError: If the file cannot be written.
    """
    target = Path(path)
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as stream:
            # mkstemp makes files private; a figure is as readable as the umask allows any other file to be.
            os.chmod(temporary, 0o666 & ~_umask())
            figure.savefig(stream, format="png", dpi=PIXELS_PER_INCH)
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(
            f"cannot write the figure {target}: {error.strerror or error}. "
            "Free space there or choose another output folder."
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return target


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
