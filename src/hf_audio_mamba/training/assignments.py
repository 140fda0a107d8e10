"""`name=value,name=value`: options that change fields of something else, and what is said about wrong names."""

import json
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from hf_audio_mamba.errors import UsageError


def parse_assignments(text: str | None, *, option: str) -> dict[str, Any]:
    """Read `name=value,name=value` or a JSON object.

    Values are read as JSON (`3`, `1e-3`, `true`, `null`, `"3"`) and otherwise taken as plain text.

    Args:
        text: The text; None or empty gives an empty dict.
        option: Name of the option it came from, for messages.

    Raises:
        UsageError: If a part is not `name=value`, a name comes twice, or the JSON is broken.
    """
    if text is None or not text.strip():
        return {}
    if text.lstrip().startswith("{"):
        try:
            loaded = json.loads(text)
        except ValueError as error:
            raise UsageError(f"{option} is not a valid JSON object: {error}") from error
        return dict(loaded)
    values: dict[str, Any] = {}
    for part in text.split(","):
        name, separator, value = (piece.strip() for piece in part.partition("="))
        if not separator or not name:
            raise UsageError(f"{option}: {part!r} is not name=value (use a JSON object for lists and commas).")
        if name in values:
            raise UsageError(f"{option}: {name!r} is given twice.")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def check_names(values: Mapping[str, Any], known: Collection[str], *, option: str) -> None:
    """Refuse names that do not exist, with the nearest one that does.

    Raises:
        UsageError: For the first unknown name.
    """
    for name in values:
        if name not in known:
            raise UsageError(f"{option}: there is no {name!r}{nearest(name, known)}")


def nearest(name: str, known: Collection[str]) -> str:
    """The end of a sentence about an unknown name: `"; did you mean ...?"` where a known one is close, else `"."`."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else "."
