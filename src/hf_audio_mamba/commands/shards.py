"""`hf-audio-mamba shards`: pack a folder of recordings or a Hub data set into shards for streaming."""

import argparse
import sys
from collections.abc import Sequence

from hf_audio_mamba.commands.main import run_command
from hf_audio_mamba.errors import UsageError

FORMATS = ("parquet", "tar")


def run(argv: Sequence[str]) -> int:
    """Write shards and say what they hold.

    Args:
        argv: Options; see `--help`.

    Returns:
        Exit status.

    Raises:
        HFAudioMambaError: If the data cannot be read or the shards cannot be written.
    """
    options = vars(_parser().parse_args(argv))
    # Imported here: they bring torch and transformers, which --help has no use for.
    from hf_audio_mamba.data import write_shards
    from hf_audio_mamba.training import DataArguments
    from hf_audio_mamba.training.preparation import load_dataset

    writing = {name: options.pop(name) for name in ("output_dir", "format", "num_shards", "balance_classes", "seed")}
    data_args = DataArguments(**{name: value for name, value in options.items() if value is not None})
    if data_args.fold == "all":
        raise UsageError("--fold all is for cross-validation; name the fold to test on.")
    dataset = load_dataset(data_args)
    written = write_shards(
        dataset,
        writing["output_dir"],
        file_format=writing["format"],
        num_shards=writing["num_shards"],
        balance_classes=writing["balance_classes"],
        seed=writing["seed"],
    )
    for split, paths in written.items():
        megabytes = sum(path.stat().st_size for path in paths) / 1e6
        print(f"{split}: {len(dataset.splits[split])} clips in {len(paths)} shards, {megabytes:.1f} MB")
    print(
        f"{len(dataset.label_names)} classes; train with --streaming --data_dir {writing['output_dir']} --max_steps N"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hf-audio-mamba shards", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--output_dir", required=True, help="new or empty folder for the shards and labels.csv")
    add("--format", choices=FORMATS, default="parquet", help="Parquet, or tar in WebDataset layout (%(default)s)")
    add("--num_shards", type=int, default=8, help="shards of each split; best a multiple of all readers (%(default)s)")
    add("--balance_classes", action="store_true", help="draw training clips so that every class comes equally often")
    add("--seed", type=int, default=0, help="of the order of clips (%(default)s)")
    add("--data_dir", help="folder of audio files with metadata.csv and/or train, validation, test")
    add("--dataset_name", help="Hub id of a data set, or synthetic-notes")
    add("--dataset_config_name", help="configuration of the Hub data set")
    add("--metadata", help="CSV with a split or fold column for the files of --data_dir")
    add("--audio_column", help="audio column of a Hub data set")
    add("--label_column", help="column with the label")
    add("--problem_type", choices=("single_label_classification", "multi_label_classification"))
    add("--fold", help="fold to test on")
    add("--validation_fold", help="fold to validate on, or none")
    add("--validation_fraction", type=float, help="share of the training clips to validate on where there is no split")
    add("--unseen_labels", choices=("error", "keep", "drop"), help="clips of a class that training lacks")
    add("--duplicates", choices=("error", "drop"), help="audio that is in two splits")
    return parser


def main() -> int:
    """Entry point of `scripts/make_shards.py`."""
    return run_command(run, prog="shards")


if __name__ == "__main__":
    sys.exit(main())
