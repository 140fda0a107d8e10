"""The program `hf-audio-mamba`, and what all of its verbs share: exit statuses and messages instead of tracebacks."""

import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from hf_audio_mamba.errors import HFAudioMambaError, UsageError

VERBS = {
    "train": "train a classifier or regressor on audio, evaluate it, and write model, results and card",
    "classify": "classify audio files or folders with a trained model",
    "convert": "turn published weights of AuM, Vision Mamba or VMamba into a model folder",
    "mix": "make multi-label clips with known answers by mixing single-label ones",
    "shards": "pack recordings into shards for training on a stream",
    "evaluate-midi": "score models of symbolic music on MIDI files, and describe generated music",
    "benchmark": "measure features, scans and models on this machine",
    "doctor": "show which scan backend each device gets, and why not a faster one",
    "demo": "train on rendered notes and classify one of them, in a few minutes",
}
"""Verb to what it does; the module `hf_audio_mamba.commands.<verb>`, with `_` for `-`, has `run(argv)`."""

Command = Callable[[Sequence[str]], int]

EXIT_INTERRUPTED = 130
"""What shells report for a program that Ctrl-C ended."""


def run_command(command: Command, argv: Sequence[str] | None = None, *, prog: str = "hf-audio-mamba") -> int:
    """Run a command and turn whatever goes wrong into one message and an exit status.

    Args:
        command: Takes the words after the program name and returns its exit status.
        argv: These words; None takes those of this process.
        prog: Name in front of messages.

    Returns:
        0 for success, 1 for work that failed, 2 for wrong usage, 130 after Ctrl-C.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("hf_audio_mamba").setLevel(logging.INFO)
    try:
        status = command(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except HFAudioMambaError as error:
        return _report(prog, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _report(prog, "interrupted.", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has seen enough. Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError as error:
        return _report(prog, _memory_advice(error), 1)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        return _report(prog, _memory_advice(error), 1)


def _report(prog: str, message: str, status: int) -> int:
    print(f"{prog}: error: {message}", file=sys.stderr)
    return status


def _is_out_of_memory(error: RuntimeError) -> bool:
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text


def _memory_advice(error: BaseException) -> str:
    reason = str(error).splitlines()[0] if str(error) else "the system gave no more"
    return (
        f"out of memory ({reason}). For training use a smaller --per_device_train_batch_size (raise "
        "--gradient_accumulation_steps by the same factor to keep the result), a smaller --max_seconds or "
        "--activation_checkpointing; for classifying a smaller --batch_size or --chunk_length_s."
    )


def _dispatch(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if argv else 2
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        near = get_close_matches(verb, VERBS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"there is no verb {verb!r}.{hint}\n{_usage()}")
    command: Command = importlib.import_module(f"hf_audio_mamba.commands.{verb.replace('-', '_')}").run
    return command(rest)


def _usage() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb.ljust(width)}  {purpose}" for verb, purpose in VERBS.items()]
    return "\n".join(["usage: hf-audio-mamba VERB [options]", *lines, "hf-audio-mamba VERB --help describes a verb."])


def main() -> int:
    """Entry point of `hf-audio-mamba`."""
    return run_command(_dispatch)


if __name__ == "__main__":
    sys.exit(main())
