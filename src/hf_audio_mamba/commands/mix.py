"""`hf-audio-mamba mix`: make multi-label clips with known answers by mixing single-label ones within their split."""

import argparse
import sys
from collections.abc import Sequence

from hf_audio_mamba.commands.main import run_command

SPLITS = ("train", "validation", "test")


def run(argv: Sequence[str]) -> int:
    """Write mixtures and say how many.

    Args:
        argv: Options; see `--help`.

    Returns:
        Exit status.

    Raises:
        HFAudioMambaError: If the data cannot be read or the mixtures cannot be written.
    """
    options = _parser().parse_args(argv)
    # Imported here: they bring torch and transformers, which --help has no use for.
    from hf_audio_mamba.data import load_audio_folder
    from hf_audio_mamba.data.mixtures import MixtureSettings, write_mixtures

    dataset = load_audio_folder(
        options.data_dir,
        metadata=options.metadata,
        label_column=options.label_column,
        fold=options.fold,
        validation_fold=options.validation_fold,
    )
    counts = {split: getattr(options, f"num_{split}") for split in SPLITS if getattr(options, f"num_{split}")}
    settings = MixtureSettings(
        options.seconds, options.sampling_rate, (options.min_sounds, options.max_sounds), options.level_db, options.seed
    )
    write_mixtures(dataset, options.output_dir, counts, settings)
    print(f"{', '.join(f'{count} {split}' for split, count in counts.items())} mixtures in {options.output_dir}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hf-audio-mamba mix", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--data_dir", required=True, help="folder of single-label recordings, in any layout that train takes")
    add("--metadata", help="CSV with a split or fold column")
    add("--label_column", default="label", help="column with the class (%(default)s)")
    add("--fold", help="test fold of a fold column")
    add("--validation_fold", help="validation fold (default: the next one)")
    add("--output_dir", required=True, help="new or empty folder for the mixtures")
    for split, count in zip(SPLITS, (1000, 200, 300), strict=True):
        add(f"--num_{split}", type=int, default=count, help=f"mixtures of {split} clips (%(default)s)")
    add("--seconds", type=float, default=10.0, help="length of a mixture (%(default)s)")
    add("--sampling_rate", type=int, default=32000, help="of the mixtures, in Hz (%(default)s)")
    add("--min_sounds", type=int, default=2, help="fewest sounds in a mixture (%(default)s)")
    add("--max_sounds", type=int, default=3, help="most sounds in a mixture (%(default)s)")
    add("--level_db", type=float, default=10.0, help="range of the sounds' levels in dB (%(default)s)")
    add("--seed", type=int, default=0, help="of every draw (%(default)s)")
    return parser


def main() -> int:
    """Entry point of `scripts/mix_clips.py`."""
    return run_command(run, prog="mix_clips.py")


if __name__ == "__main__":
    sys.exit(main())
