"""`hf-audio-mamba classify`: classify audio files and folders with a trained model."""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_audio_mamba._optional import require
from hf_audio_mamba.commands.main import run_command
from hf_audio_mamba.errors import AudioError, OutputError, UsageError

if TYPE_CHECKING:
    from hf_audio_mamba.pipelines import AudioClassificationPipeline

STDOUT = "-"


@dataclass(frozen=True)
class ClassifiedFile:
    """Scores of one file.

    Attributes:
        path: The file.
        labels: `{"score": float, "label": str}` for every label of the model, best first.
        timeline: The same for each window or time step, as the pipeline returns it; empty if only the whole was scored.
    """

    path: Path
    labels: list[dict[str, Any]]
    timeline: list[dict[str, Any]]


@dataclass(frozen=True)
class FailedFile:
    """A file or folder that could not be classified, and why."""

    path: Path
    reason: str


def run(argv: Sequence[str]) -> int:
    """Classify as the options say.

    Args:
        argv: See `--help`.

    Returns:
        0, or 1 if a file could not be classified; the others are.

    Raises:
        HFAudioMambaError: If the options, the model or the output cannot be used.
    """
    options = _parse(argv)
    files = find_audio_files(options.inputs)
    plots = {} if options.plot is None else _plot_paths(files, options.plot)
    pipe = _load_pipeline(options)
    timed = options.chunk_length_s is not None or pipe.seconds_per_step is not None
    if options.timestamps and not timed:
        raise UsageError("--timestamps needs --chunk_length_s: this model scores whole clips, not their time steps")
    table = None if options.json == STDOUT else _Table(files, pipe.model.config.id2label.values(), options)
    results: list[ClassifiedFile] = []
    failures: list[FailedFile] = []
    for result in classify_files(pipe, files, batch_size=options.batch_size, timed=timed):
        if isinstance(result, FailedFile):
            failures.append(result)
            print(f"failed: {printable(result.reason)}", file=sys.stderr)
            continue
        results.append(result)
        if table is not None:
            table.write(result)
        if result.path in plots:
            _plot(result, plots[result.path], pipe.feature_extractor.sampling_rate)
    if options.json is not None:
        _write_json(options, results, failures)
    if failures:
        print(f"{len(failures)} of {len(files)} inputs could not be classified", file=sys.stderr)
    return 1 if failures else 0


def find_audio_files(inputs: Sequence[str]) -> list[Path | FailedFile]:
    """List the files to classify: files as given, folders by the audio files in them at any depth.

    Names that begin with a dot are left out of folders; every file is listed once. A file that does not exist is
    listed: reading it will tell.

    Args:
        inputs: Paths of files and folders.
    """
    # Imported here, as everything heavy below, so that --help and wrong options are answered at once.
    from hf_audio_mamba.data.audio_folder import AUDIO_SUFFIXES

    found: dict[Path, Path | FailedFile] = {}
    for path in map(Path, inputs):
        if not path.is_dir():
            found.setdefault(path, path)
            continue
        unreadable: list[OSError] = []
        count = len(found)
        for folder, subfolders, names in os.walk(path, onerror=unreadable.append):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for file in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):
                if file.suffix.lower() in AUDIO_SUFFIXES:
                    found.setdefault(file, file)
        for error in unreadable:
            found[Path(error.filename)] = FailedFile(Path(error.filename), f"{error.filename}: {error.strerror}")
        if len(found) == count and path not in found:
            found[path] = FailedFile(path, f"{path} holds no audio files ({' '.join(sorted(AUDIO_SUFFIXES))})")
    return list(found.values())


def classify_files(
    pipe: "AudioClassificationPipeline", files: Sequence[Path | FailedFile], *, batch_size: int, timed: bool
) -> Iterator[ClassifiedFile | FailedFile]:
    """Classify files in the order given; one that cannot be read does not keep the others from being scored.

    Args:
        pipe: A pipeline whose constructor got `chunk_length_s` and the like.
        files: Files to classify; failures among them are passed on.
        batch_size: Files, or their windows, per forward pass.
        timed: Whether the pipeline scores windows, or the model time steps.

    Yields:
        As many results as there are files.
    """

    def score(paths: list[Path]) -> list[ClassifiedFile | FailedFile]:
        outputs = pipe(paths, batch_size=batch_size, top_k=None, return_timestamps=timed)
        if timed:
            pairs = [(output["labels"], output["timeline"]) for output in outputs]
        else:
            pairs = [(labels, []) for labels in outputs]
        return [ClassifiedFile(path, *pair) for path, pair in zip(paths, pairs, strict=True)]

    def score_or_explain(path: Path) -> ClassifiedFile | FailedFile:
        try:
            return score([path])[0]
        except AudioError as error:
            return FailedFile(path, str(error))

    for start in range(0, len(files), batch_size):
        group = files[start : start + batch_size]
        paths = [file for file in group if isinstance(file, Path)]
        try:
            scored = iter(score(paths))
        except AudioError:
            # One bad file ends the whole call, so the group is done again file by file.
            scored = map(score_or_explain, paths)
        for file in group:
            yield next(scored) if isinstance(file, Path) else file


def main() -> int:
    """Entry point of `scripts/classify_audio.py`."""
    return run_command(run, prog="classify")


class _Table:
    """Writes results to standard output as they come, a line for each label."""

    def __init__(self, files: Sequence[Path | FailedFile], labels: Iterable[str], options: argparse.Namespace) -> None:
        names = [printable(str(file)) for file in files if isinstance(file, Path)]
        self._columns = {"file": max(map(len, [*names, "file"])), "label": max(map(len, [*labels, "label"]))}
        if options.timestamps:
            self._columns = {"file": self._columns["file"], "seconds": len("1234.56-1234.56")} | self._columns
        self._top_k = options.top_k
        self._timestamps = options.timestamps
        self._write({name: name for name in self._columns}, "score")

    def write(self, result: ClassifiedFile) -> None:
        """Write the labels of a file, and of its windows if these were asked for."""
        stretches = [("all", result.labels)]
        if self._timestamps:
            stretches += [("{:.2f}-{:.2f}".format(*entry["timestamp"]), entry["labels"]) for entry in result.timeline]
        for seconds, labels in stretches:
            for entry in labels[: self._top_k]:
                cells = {"file": str(result.path), "seconds": seconds, "label": entry["label"]}
                self._write(cells, f"{entry['score']:.4f}")
        sys.stdout.flush()

    def _write(self, cells: dict[str, str], score: str) -> None:
        padded = [printable(cells[name]).ljust(width) for name, width in self._columns.items()]
        print("  ".join([*padded, score.rjust(7)]))


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="classify", description=__doc__, allow_abbrev=False)
    parser.add_argument("inputs", nargs="+", metavar="FILE_OR_FOLDER", help="audio files; folders of them at any depth")
    parser.add_argument("--model", required=True, help="folder of a trained model, or its id on the Hub")
    parser.add_argument("--top_k", type=_positive_int, default=5, help="labels to show for each file (default: 5)")
    parser.add_argument(
        "--chunk_length_s", type=float, metavar="S", help="score windows of S seconds and average; for long files"
    )
    parser.add_argument(
        "--stride_length_s",
        type=float,
        metavar="S",
        help="context on each side of a window, heard but scored by the neighbouring window (default: 0)",
    )
    parser.add_argument("--timestamps", action="store_true", help="show the scores of each window or time step too")
    parser.add_argument(
        "--json", nargs="?", const=STDOUT, metavar="FILE", help="write JSON to FILE, or in place of the table"
    )
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw spectrogram and scores of each file (PNG)")
    parser.add_argument("--batch_size", type=_positive_int, default=1, help="files or windows at a time (default: 1)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps, ... (default: the fastest there is)")
    options = parser.parse_args(argv)
    if options.chunk_length_s is None and options.stride_length_s is not None:
        parser.error("--stride_length_s needs --chunk_length_s")
    if options.json not in (None, STDOUT):
        _check_json_path(Path(options.json))
    return options


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return value


def _check_json_path(path: Path) -> None:
    """Refuse what `--json AUDIO_FILE` would overwrite: the option takes the next word for its file."""
    from hf_audio_mamba.data.audio_folder import AUDIO_SUFFIXES

    if path.is_dir() or path.suffix.lower() in AUDIO_SUFFIXES:
        raise UsageError(f"--json takes {path} for its output file; put the inputs first, or write --json=-")


def _load_pipeline(options: argparse.Namespace) -> "AudioClassificationPipeline":
    from transformers.utils import logging as transformers_logging

    from hf_audio_mamba.hub import load_classifier
    from hf_audio_mamba.pipelines import AudioClassificationPipeline
    from hf_audio_mamba.pipelines.windows import Chunking

    # Whatever can be wrong with the options is said before a model is loaded.
    if options.chunk_length_s is not None:
        Chunking.from_arguments(options.chunk_length_s, options.stride_length_s)
    device = usable_device(options.device)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    windows = {"chunk_length_s": options.chunk_length_s, "stride_length_s": options.stride_length_s}
    model, feature_extractor = load_classifier(options.model)
    return AudioClassificationPipeline(model=model, feature_extractor=feature_extractor, device=device, **windows)


def usable_device(name: str | None) -> str | None:
    """Check the device of an option `--device`.

    Raises:
        UsageError: If it cannot be used.
    """
    import torch

    if name is None:
        return None
    try:
        # There and back, because tensors on the device "meta" can be made but hold nothing.
        torch.zeros(1, device=name).cpu()
    # torch reports an unknown name, a missing driver and a build without that device in three ways.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from error
    return name


def _plot_paths(files: Sequence[Path | FailedFile], folder: Path) -> dict[Path, Path]:
    """Name a figure for each file; files of one name in several folders get numbers."""
    require("matplotlib", extra="viz", purpose="--plot")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--plot {folder} cannot be made: {error.strerror or error}") from error
    plots: dict[Path, Path] = {}
    for file in (file for file in files if isinstance(file, Path)):
        stem = printable(file.stem)
        names = (f"{stem}.png" if number == 1 else f"{stem}_{number}.png" for number in itertools.count(1))
        plots[file] = next(folder / name for name in names if folder / name not in plots.values())
    return plots


def _plot(result: ClassifiedFile, path: Path, sampling_rate: int) -> None:
    from hf_audio_mamba.commands._spectrogram import display_spectrogram
    from hf_audio_mamba.plots import ScoredSegment, save_spectrogram_scores

    def by_name(labels: list[dict[str, Any]]) -> dict[str, float]:
        return {entry["label"]: entry["score"] for entry in labels}

    spectrogram = display_spectrogram(result.path, sampling_rate=sampling_rate)
    segments = []
    for entry in result.timeline:
        start, end = entry["timestamp"]
        segments.append(ScoredSegment(start, end, by_name(entry["labels"])))
    save_spectrogram_scores(
        spectrogram.level,
        spectrogram.columns_per_second,
        segments or by_name(result.labels),
        path,
        title=printable(result.path.name),
        band_frequencies=spectrogram.band_frequencies,
    )


def _write_json(options: argparse.Namespace, results: Sequence[ClassifiedFile], failures: Sequence[FailedFile]) -> None:
    top_k = options.top_k
    files = []
    for result in results:
        entry: dict[str, Any] = {"file": str(result.path), "labels": result.labels[:top_k]}
        if options.timestamps:
            entry["timeline"] = [window | {"labels": window["labels"][:top_k]} for window in result.timeline]
        files.append(entry)
    failed = [{"file": str(failure.path), "error": failure.reason} for failure in failures]
    text = json.dumps({"model": options.model, "files": files, "failed": failed}, indent=2)
    if options.json == STDOUT:
        print(text)
    else:
        _replace_file(Path(options.json), text + "\n")


def _replace_file(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def printable(text: str) -> str:
    """Escape what a terminal cannot show or would obey: bytes that are not UTF-8, control characters."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    encoding = sys.stdout.encoding or "utf-8"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


if __name__ == "__main__":
    sys.exit(main())
