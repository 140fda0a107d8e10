"""Programs run as a user runs them, for tests of signals and closed pipes."""

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def started(command: Sequence[str]) -> Iterator["subprocess.Popen[str]"]:
    """A child process that Ctrl-C reaches, and that is gone at the end whatever happens.

    Shells start background jobs with SIGINT ignored, and every child inherits that: tests must not depend on how they
    were started.
    """
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_hear_interrupts
    ) as process:
        try:
            yield process
        finally:
            process.kill()
