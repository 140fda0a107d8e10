"""What every verb has in common: exit statuses, one message, no traceback."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hf_audio_mamba.commands import main as program
from hf_audio_mamba.commands.main import VERBS, run_command
from hf_audio_mamba.errors import DataError, HFAudioMambaError, OutputError, UsageError
from tests.commands.processes import started

MODULE = [sys.executable, "-m", "hf_audio_mamba.commands.main"]


def raising(error: BaseException) -> Callable[[Sequence[str]], int]:
    def command(_: Sequence[str]) -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (UsageError("--x is wrong"), 2, "prog: error: --x is wrong"),
        (DataError("a.csv: no rows"), 1, "prog: error: a.csv: no rows"),
        (OutputError("disk"), 1, "prog: error: disk"),
        (HFAudioMambaError("other"), 1, "prog: error: other"),
        (KeyboardInterrupt(), 130, "prog: error: interrupted."),
        (MemoryError(), 1, "--per_device_train_batch_size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"), 1, "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), 1, "--gradient_accumulation_steps"),
    ],
)
def test_errors_become_a_message_and_a_status(
    error: BaseException, status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(raising(error), [], prog="prog") == status
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_programming_errors_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        run_command(raising(RuntimeError("shapes differ")), [])


def test_status_of_a_command_is_passed_on() -> None:
    assert run_command(lambda argv: len(argv), ["a", "b"]) == 2


def test_unknown_verb_lists_the_verbs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["hf-audio-mamba", "tran"])
    assert program.main() == 2
    text = capsys.readouterr().err
    assert "no verb 'tran'. Did you mean train?" in text
    assert all(f"  {verb} " in text for verb in VERBS)


@pytest.mark.parametrize(("argv", "status"), [(["--help"], 0), (["help"], 0), ([], 2)])
def test_help_lists_the_verbs(
    argv: list[str], status: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["hf-audio-mamba", *argv])
    assert program.main() == status
    assert "usage: hf-audio-mamba VERB" in capsys.readouterr().out


def test_every_verb_has_its_module() -> None:
    folder = Path(program.__file__).parent
    assert all((folder / f"{verb.replace('-', '_')}.py").is_file() for verb in VERBS)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from hf_audio_mamba.commands.main import main; sys.argv = ['hf-audio-mamba', '--help']; main(); "
        "sys.exit(len({'torch', 'transformers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_reader_that_leaves_is_no_error() -> None:
    code = (
        "import sys; from hf_audio_mamba.commands.main import run_command\n"
        "def talk(argv):\n    for _ in range(100_000): print('x' * 100)\n    return 0\n"
        "sys.exit(run_command(talk, []))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, b"")


def test_interrupt_ends_with_130_and_one_line() -> None:
    code = (
        "import sys, time; from hf_audio_mamba.commands.main import run_command\n"
        "def wait(argv):\n    print('ready', flush=True)\n    time.sleep(60)\n    return 0\n"
        "sys.exit(run_command(wait, []))"
    )
    with started([sys.executable, "-c", code]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        start = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, "hf-audio-mamba: error: interrupted.\n")
    assert time.monotonic() - start < 30
