"""Compilation of kernels at their first call, with machine code kept on disk where that is possible."""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numba import config, njit

_logger = logging.getLogger(__name__)
_warned = False

kernel_part = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy")
"""Decorator of the functions that kernels call: without the entries for Python and C, which double the compile time."""


def _source_stamp() -> int:
    """A number that changes with any of the kernels' sources.

    numba notices a change of the file that defines a cached kernel but not of the files it imports from; a kernel that
    refers to this number by closure is compiled anew after either.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("numba_*.py")):
        digest.update(path.read_bytes())
    return int.from_bytes(digest.digest()[:6], "big")


SOURCE_STAMP = _source_stamp()


_compiling = threading.RLock()  # of numba's setting, which all threads share


@contextmanager
def _quick_compilation() -> Iterator[None]:
    """Let LLVM optimise at level 2 while a kernel is compiled: a quarter less time, and the kernels are as fast."""
    with _compiling:
        level, config.OPT = config.OPT, type(config.OPT)(2)
        try:
            yield
        finally:
            config.OPT = level


class Kernel:
    """A function compiled by numba that runs without the interpreter lock and never raises by itself.

    numba keeps its machine code beside the source, in `NUMBA_CACHE_DIR`, or in the user's cache folder. Where none can
    be written to, or what lies there is damaged, the kernel is compiled in memory.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        """Prepare a function; nothing is compiled yet."""
        self._function = function
        try:
            self.dispatcher: Any = njit(nogil=True, cache=True, no_cfunc_wrapper=True)(function)
        except RuntimeError as error:  # no place for a cache
            self._forgo_cache(error)

    def __call__(self, *arguments: Any) -> None:
        """Run the kernel."""
        try:
            if self.dispatcher.overloads:  # entering a context takes as long as a small kernel, as does `signatures`
                self.dispatcher(*arguments)
                return
            with _quick_compilation():
                self.dispatcher(*arguments)
        except Exception as error:  # reading or writing the cache: a damaged one raises whatever pickle makes of it
            self._forgo_cache(error)
            self.dispatcher(*arguments)

    def _forgo_cache(self, error: Exception) -> None:
        global _warned
        _logger.log(
            logging.DEBUG if _warned else logging.WARNING,  # what ails one cache mostly ails all of them
            "%s is compiled in memory, as numba's cache cannot be used (%s: %s); "
            "NUMBA_CACHE_DIR names a folder for it.",
            self._function.__name__,
            type(error).__name__,
            error,
        )
        _warned = True
        self.dispatcher = njit(nogil=True, no_cfunc_wrapper=True)(self._function)
