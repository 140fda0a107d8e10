"""One door to optional packages, so that a missing one always names the extra that brings it."""

import importlib
from types import ModuleType

from hf_audio_mamba.errors import MissingExtraError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional module or say how to install it.

    Args:
        module: Dotted module name, for example `"matplotlib.pyplot"`.
        extra: Extra of this package that installs it, for example `"viz"`.
        purpose: What needs it, as it should read in the message, for example `"drawing a confusion matrix"`.

    Raises:
        MissingExtraError: If the module (or a parent package) is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs the package {module.split('.')[0]!r} ({error}). "
            f"Install it with: pip install 'hf_audio_mamba[{extra}]'"
        ) from error
