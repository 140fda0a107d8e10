"""`hf-audio-mamba train`: train, evaluate and describe an audio classifier or regressor."""

import os
import sys
from collections.abc import Sequence

from hf_audio_mamba.commands.main import run_command


def run(argv: Sequence[str]) -> int:
    """Train as the options say and print the scores.

    Args:
        argv: An optional settings file (YAML or JSON), then options; see `--help`.

    Returns:
        Exit status.

    Raises:
        HFAudioMambaError: As `hf_audio_mamba.training.run` does.
    """
    # Imported here: they bring torch and transformers, which `hf-audio-mamba --help` has no use for.
    from transformers.utils import logging as transformers_logging

    from hf_audio_mamba.hub import command_line
    from hf_audio_mamba.training import parse_arguments, results_table
    from hf_audio_mamba.training import run as run_training

    model_args, data_args, training_args = parse_arguments(argv)
    transformers_logging.set_verbosity_error()
    # Their bars are about the files of each checkpoint; the bar of the training itself is the Trainer's own.
    transformers_logging.disable_progress_bar()
    if not sys.stderr.isatty():
        training_args.disable_tqdm = True
    command = command_line(["hf-audio-mamba", "train", *argv])
    results = run_training(model_args, data_args, training_args, command=command)
    if int(os.environ.get("RANK", "0")) == 0:
        print(results_table(results))
        where = f"the sub-folders of {training_args.output_dir}" if "folds" in results else training_args.output_dir
        print(f"Model, results and card are in {where}")
    return 0


def main() -> int:
    """Entry point of `scripts/train_audio_classification.py`."""
    return run_command(run, prog="train")


if __name__ == "__main__":
    sys.exit(main())
