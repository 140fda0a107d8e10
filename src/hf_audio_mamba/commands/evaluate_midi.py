"""`hf-audio-mamba evaluate-midi`: score models of symbolic music on MIDI files, and describe generated music.

Prints nats per token, bits per note and bits per second of each model on whole pieces, its loss against position, and
for the music (the MIDI files, those generated, those trained on) the rate of grammar errors, how near its histograms of
pitch classes, inter-onset intervals, durations and velocities are to those of the MIDI files, and what part of it is in
the training files. Several models are compared only if their tokenizers have one grid of time and velocity.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_audio_mamba._optional import require
from hf_audio_mamba.commands.main import run_command
from hf_audio_mamba.errors import CheckpointError, DataError, UnsupportedModelError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_audio_mamba.midi import ModelScores, TokenizedPiece
    from hf_audio_mamba.midi.tokenizer import MidiTokenizer

STDOUT = "-"


def run(argv: Sequence[str]) -> int:
    """Evaluate as the options say.

    Args:
        argv: See `--help`.

    Returns:
        Exit status.

    Raises:
        HFAudioMambaError: If the options, a model or a file cannot be used, or the output cannot be written.
    """
    options = _parse(argv)
    if options.plot is not None:
        require("matplotlib", extra="viz", purpose="--plot")
    # Imported here: they bring torch and transformers, which --help has no use for.
    from hf_audio_mamba.commands import _evaluate_midi_report as report
    from hf_audio_mamba.midi import check_equal_grids, evaluate_model, find_music, music_grid, read_pieces

    held_out, training = _sources(options)
    generated_paths = find_music(options.generated, ids=True) if options.generated else []
    if len(options.model) > 1 and any(path.suffix.lower() == ".json" for path in generated_paths):
        raise UsageError("generated ids belong to one model; give one --model, or generated MIDI files")
    tokenizers = [_load_tokenizer(folder) for folder in options.model]
    grids = [music_grid(tokenizer) for tokenizer in tokenizers]
    check_equal_grids(grids, options.model)
    models: dict[str, dict[str, Any]] = {}
    music: dict[str, list[TokenizedPiece]] = {}
    for folder, tokenizer in zip(options.model, tokenizers, strict=True):
        pieces = read_pieces(tokenizer, held_out, progress=True)
        music.setdefault("held_out", pieces)
        model = _load_model(folder, tokenizer, options.device)
        scored = evaluate_model(
            model, pieces, window=options.window, stride=options.stride, part=options.part, progress=True
        )
        models[folder] = _model_entry(model, scored)
    music["generated"] = read_pieces(tokenizers[0], generated_paths, progress=True)
    music["training"] = read_pieces(tokenizers[0], training, progress=True)
    described = _describe(music, tokenizers[0], options.copy_lengths)
    content = {"grid": grids[0], "models": models, "music": described}
    report.show(content, options.json)
    if options.plot is not None:
        report.plot(models, options.plot)
    return 0


def _sources(options: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """Held-out and training music, from files and folders or from the splits of a data set."""
    from hf_audio_mamba.midi import find_music, find_pieces

    if options.data_dir is None:
        return find_music(options.midi), find_music(options.training) if options.training else []
    pieces = find_pieces(options.data_dir).pieces
    if not pieces[options.split]:
        raise DataError(f"{options.data_dir} has no pieces in its split {options.split!r}; choose another --split")
    return list(pieces[options.split]), list(pieces["train"]) if options.copies else []


def _describe(
    music: "dict[str, list[TokenizedPiece]]", tokenizer: "MidiTokenizer", copy_lengths: Sequence[int]
) -> dict[str, dict[str, float]]:
    """What each set is like; neither of a set with itself is told anything."""
    from hf_audio_mamba.midi import describe_music

    described = {}
    for name, pieces in music.items():
        if not pieces:
            continue
        described[name] = describe_music(
            pieces,
            tokenizer=tokenizer,
            held_out=None if name == "held_out" else music["held_out"],
            training=None if name == "training" or not music["training"] else music["training"],
            copy_lengths=copy_lengths,
        )
    return described


def _model_entry(model: "PreTrainedModel", scored: "ModelScores") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "model_type": model.config.model_type,
        "parameters": model.num_parameters(),
        "vocab_size": model.get_input_embeddings().num_embeddings,
        "context": {**asdict(scored.context), "description": str(scored.context)},
        **scored.scores,
        "loss_by_position": [asdict(row) for row in scored.positions],
        "loss_by_position_of_long_pieces": [asdict(row) for row in scored.long_positions],
        "by_piece": scored.pieces,
    }


def _load_tokenizer(folder: str) -> "MidiTokenizer":
    from hf_audio_mamba.midi import MidiTokenizer

    if not Path(folder).is_dir():
        raise UsageError(f"--model {folder} is no folder; give the folder of a trained model")
    tokenizer: MidiTokenizer = MidiTokenizer.from_pretrained(folder)
    return tokenizer


def _load_model(folder: str, tokenizer: "MidiTokenizer", device: str | None) -> "PreTrainedModel":
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    from hf_audio_mamba import use_fast_mamba
    from hf_audio_mamba.hub import check_model_folder

    check_model_folder(folder)
    transformers_logging.disable_progress_bar()
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise CheckpointError(f"{folder} holds no causal language model that can be loaded: {reason}") from error
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise CheckpointError(f"{folder}: the weights lack {missing}; restore them")
    size = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > size:
        raise CheckpointError(f"{folder}: the tokenizer has {len(tokenizer)} ids and the model {size}; they do not fit")
    # A model that is not Mamba, or one of another kind, is read by windows; the context in the results tells so.
    with suppress(UnsupportedModelError):
        use_fast_mamba(model)
    try:
        placed: PreTrainedModel = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        return placed
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hf-audio-mamba evaluate-midi", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--model", required=True, nargs="+", metavar="FOLDER", help="folders of models with their MidiTokenizer")
    held_out = parser.add_mutually_exclusive_group(required=True)
    held_out.add_argument("--midi", nargs="+", metavar="FILE_OR_FOLDER", help="held-out MIDI files; folders of them")
    held_out.add_argument("--data_dir", metavar="FOLDER", help="data set with splits, in any layout for training")
    add("--split", choices=("validation", "test"), help="split of --data_dir to score (default: test)")
    add("--copies", action="store_true", help="look for copies in the training split of --data_dir")
    add(
        "--generated",
        nargs="+",
        metavar="FILE_OR_FOLDER",
        help="generated music: MIDI files, or JSON files of the ids that the model gave (a list or lists)",
    )
    add("--training", nargs="+", metavar="FILE_OR_FOLDER", help="with --midi: files trained on, to look for copies in")
    add("--window", type=int, help="score by windows of so many tokens (default: carried state, or the longest input)")
    add("--stride", type=int, help="tokens between the beginnings of windows (default: half a window)")
    add("--part", type=int, default=2048, help="tokens read at a time where state is carried (%(default)s)")
    add("--copy_lengths", type=int, nargs="+", default=(4, 8, 16), help="notes in an n-gram (4 8 16)")
    add("--json", nargs="?", const=STDOUT, metavar="FILE", help="write JSON to FILE, or print it in place of the table")
    add("--plot", metavar="FILE", help="draw loss against position, over the longer half of the pieces (PNG)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")
    options = parser.parse_args(argv)
    if options.data_dir is None and (options.copies or options.split is not None):
        parser.error("--split and --copies are for --data_dir; with --midi give --training")
    if options.data_dir is not None and options.training is not None:
        parser.error("--training is for --midi; with --data_dir give --copies")
    options.split = options.split or "test"
    return options


def main() -> int:
    """Entry point of `scripts/evaluate_midi.py`."""
    return run_command(run, prog="evaluate-midi")


if __name__ == "__main__":
    sys.exit(main())
