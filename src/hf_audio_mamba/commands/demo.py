"""`hf-audio-mamba demo`: train a MoMamba on rendered notes, show what came of it, classify a file with it."""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from hf_audio_mamba.commands.main import run_command
from hf_audio_mamba.commands.train import run as train

# Chosen on the validation split: a few minutes on two cores.
TRAINING_OPTIONS = (
    "--dataset_name=synthetic-notes",
    "--num_clips=2000",
    "--config_overrides=hidden_size=96,num_hidden_layers=2",
    "--num_train_epochs=12",
    "--per_device_train_batch_size=16",
    "--learning_rate=1e-3",
    "--overwrite_output_dir",
)
EXAMPLE_FILE = "example.wav"
CARD_LINES = 40


def run(argv: Sequence[str]) -> int:
    """Train, show, classify.

    Args:
        argv: `--output_dir FOLDER` to write elsewhere than to `demo_output`.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(prog="hf-audio-mamba demo", description=__doc__)
    parser.add_argument("--output_dir", default="demo_output", help="folder for everything the demo writes")
    folder = Path(parser.parse_args(argv).output_dir)

    _say("Training a MoMamba on three-note motifs: what is the melody's contour, and which family plays it?")
    train([*TRAINING_OPTIONS, f"--output_dir={folder}"])
    _say(f"Confusion matrix of the test split (also {folder / 'confusion_matrix.png'})")
    print(confusion_table(folder / "test_predictions.csv"))
    _say(f"Model card ({folder / 'README.md'}), its first {CARD_LINES} lines below the metadata")
    card = (folder / "README.md").read_text(encoding="utf-8").split("\n---\n", maxsplit=1)[1]
    print("\n".join(card.strip().splitlines()[:CARD_LINES]))
    _classify_example(folder)
    return 0


def confusion_table(predictions: Path) -> str:
    """Counts of true labels (rows) against predicted ones (columns) as text.

    Args:
        predictions: `test_predictions.csv` of a single-label training run.
    """
    with predictions.open(encoding="utf-8", newline="") as file:
        pairs = [(row["label"], row["prediction"]) for row in csv.DictReader(file)]
    labels = sorted({label for pair in pairs for label in pair})
    width = max(map(len, labels))
    lines = [" " * width + "".join(f"{chr(ord('A') + i):>5}" for i in range(len(labels)))]
    for i, true in enumerate(labels):
        counts = "".join(f"{pairs.count((true, predicted)):>5}" for predicted in labels)
        lines.append(f"{true:<{width}}{counts}   {chr(ord('A') + i)}")
    return "\n".join(lines)


def _classify_example(folder: Path) -> None:
    """Render a motif that training has not seen, write it as a file and classify that."""
    import soundfile
    from transformers import pipeline

    from hf_audio_mamba.data.synthetic_notes import SAMPLING_RATE, render_motif

    contour, family = "arch", "struck"
    example = folder / EXAMPLE_FILE
    soundfile.write(example, render_motif(contour, family, seconds=1.0, seed=(2026,)), SAMPLING_RATE)
    _say(f'pipeline("audio-classification", model="{folder}")("{example}"), which plays {contour} {family}:')
    for result in pipeline("audio-classification", model=str(folder))(str(example)):
        print(f"  {result['score']:.3f}  {result['label']}")


def _say(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(run, prog="demo"))
