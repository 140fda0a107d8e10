"""The exceptions of this package.

Every message says what is wrong, in which file or argument, and what to do about it. Each class also derives from the
builtin that a caller would expect (`ValueError`, `ImportError`, ...), so code that knows nothing of this package can
catch it. `exit_code` is what the command line returns: 2 for wrong usage, 1 for work that failed.
"""


class HFAudioMambaError(Exception):
    """Base of all errors that this package raises on purpose."""

    exit_code: int = 1


class UsageError(HFAudioMambaError, ValueError):
    """Wrong options, contradictory options, or an unusable settings file."""

    exit_code = 2


class ShapeError(HFAudioMambaError, ValueError):
    """A tensor has the wrong rank, size, dtype or device for an operation; the message names the argument."""


class BackendError(HFAudioMambaError, RuntimeError):
    """A backend was asked for that is unknown, not available here, or cannot serve these tensors."""


class GradientError(HFAudioMambaError, RuntimeError):
    """A gradient was asked of an operation that has none."""


class UnsupportedModelError(HFAudioMambaError, TypeError):
    """A model that an operation on whole models cannot serve; the message says what it looks for."""


class AudioError(HFAudioMambaError, ValueError):
    """Audio that cannot be read or cannot be turned into features; the message names the file or argument."""


class MidiError(HFAudioMambaError, ValueError):
    """MIDI that cannot be read, or tokens that are not music; the message names the file or argument."""


class DataError(HFAudioMambaError, ValueError):
    """A data set that cannot be used: a missing column, an empty split, leaked files, too many corrupt clips."""


class CheckpointError(HFAudioMambaError, ValueError):
    """A model folder or training checkpoint that is damaged, incomplete or does not fit."""


class HubError(HFAudioMambaError, RuntimeError):
    """The Hub could not be reached or refused; what was to be sent is still on disk."""


class OutputError(HFAudioMambaError, OSError):
    """A result could not be written (no space, no permission, in use); earlier results are untouched."""


class MissingExtraError(HFAudioMambaError, ImportError):
    """An optional package is not installed; the message gives the `pip install` line that brings it."""
