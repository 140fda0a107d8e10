"""`hf-audio-mamba generate`: continue MIDI with a trained model, as files, piano rolls and audio, or note by note."""

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hf_audio_mamba._optional import require
from hf_audio_mamba.commands.classify import printable, usable_device
from hf_audio_mamba.commands.main import run_command
from hf_audio_mamba.errors import MidiError, OutputError, UsageError

if TYPE_CHECKING:
    from symusic import Score

    from hf_audio_mamba.midi import Continuation, GenerationOptions
    from hf_audio_mamba.pipelines import MidiGenerationPipeline
    from hf_audio_mamba.plots import RollNote

UNPROMPTED = "music"
"""Name of files that continue nothing."""
COLUMNS = ("seconds", "notes", "tokens", "stop")


class Outputs(NamedTuple):
    """Where the results of one continuation go; None where not wanted.

    Attributes:
        score: Prompt and continuation (.mid).
        continuation: The continuation alone (.mid).
        plot: Piano roll of `score` (.png).
        audio: Sound of `score` (.wav).
    """

    score: Path | None
    continuation: Path | None
    plot: Path | None
    audio: Path | None


def run(argv: Sequence[str]) -> int:
    """Generate as the options say.

    Args:
        argv: See `--help`.

    Returns:
        0, or 1 if a prompt could not be continued; the others are.

    Raises:
        HFAudioMambaError: If the options, the model or the outputs cannot be used.
    """
    options = _parse(argv)
    prompts: list[Path | None] = [Path(prompt) for prompt in options.prompt] or [None]
    generation = _generation_options(options)
    if options.stream:
        return _stream(options, generation, prompts[0])
    _check_outputs(options, prompts)
    outputs = _outputs(options, prompts)
    pipe = _load_pipeline(options)
    return _generate(pipe, generation, prompts, outputs, options)


def main() -> int:
    """Entry point of `scripts/generate_midi.py`."""
    return run_command(run, prog="generate")


def _generate(
    pipe: "MidiGenerationPipeline",
    generation: "GenerationOptions",
    prompts: Sequence[Path | None],
    outputs: Iterator[Outputs],
    options: argparse.Namespace,
) -> int:
    failures = 0
    print("  ".join(["  ".join(name.rjust(7) for name in COLUMNS), "file"]))
    for number, prompt in enumerate(prompts):
        places = list(itertools.islice(outputs, options.num_continuations))
        try:
            found = _continue(pipe, generation, prompt, number)
        except MidiError as error:
            failures += 1
            print(f"failed: {printable(str(error))}", file=sys.stderr)
            continue
        for continuation, place in zip(found, places, strict=True):
            _write(continuation, place, options)
            _report(continuation, place)
    if failures:
        print(f"{failures} of {len(prompts)} prompts could not be continued", file=sys.stderr)
    return 1 if failures else 0


def _continue(
    pipe: "MidiGenerationPipeline", generation: "GenerationOptions", prompt: Path | None, number: int
) -> "list[Continuation]":
    """One prompt's continuations, with the seeds that they have among all prompts."""
    seed = generation.seed
    if seed is not None:
        generation = dataclasses.replace(generation, seed=seed + number * generation.num_continuations)
    found: list[Continuation] = pipe(prompt, **dataclasses.asdict(generation))
    return found


def _write(continuation: "Continuation", place: Outputs, options: argparse.Namespace) -> None:
    from hf_audio_mamba.midi import save_audio, save_score

    if place.score is not None:
        save_score(continuation.score, place.score)
    if place.continuation is not None:
        save_score(continuation.continuation, place.continuation)
    if place.plot is not None:
        from hf_audio_mamba.plots import save_piano_roll

        start_s = continuation.start_s if len(continuation.prompt_tokens) > 1 else None
        title = printable(place.plot.stem)
        save_piano_roll(roll_notes(continuation.score), place.plot, start_s=start_s, title=title)
    if place.audio is not None:
        sound = {"soundfont": options.soundfont, "sampling_rate": options.sampling_rate}
        save_audio(continuation.score, place.audio, **sound)


def roll_notes(score: "Score") -> "list[RollNote]":
    """The notes of all tracks of a score, as a piano roll takes them."""
    from hf_audio_mamba.plots import RollNote

    tracks = score.to("second").tracks
    return [RollNote(note.time, note.duration, note.pitch, note.velocity) for track in tracks for note in track.notes]


def _report(continuation: "Continuation", place: Outputs) -> None:
    seconds = continuation.continuation.to("second").end() if continuation.continuation.note_num() else 0.0
    cells = (f"{seconds:.2f}", str(continuation.continuation.note_num()), str(len(continuation.tokens)))
    file = next(path for path in place if path is not None)
    print("  ".join([*(cell.rjust(7) for cell in cells), continuation.stop_reason.rjust(7), printable(str(file))]))
    sys.stdout.flush()


def _stream(options: argparse.Namespace, generation: "GenerationOptions", prompt: Path | None) -> int:
    pipe = _load_pipeline(options)
    for note in pipe.stream(prompt, **dataclasses.asdict(generation)):
        print(json.dumps(note._asdict()), flush=True)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="generate", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="folder of a trained model, or its id on the Hub")
    parser.add_argument("--prompt", nargs="+", default=[], metavar="FILE", help="MIDI to continue (default: nothing)")
    parser.add_argument("--prompt_seconds", type=float, metavar="S", help="continue the first S seconds of a prompt")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of the continuation in seconds")
    parser.add_argument("--notes", type=int, metavar="N", help="length of the continuation in notes")
    parser.add_argument("--max_new_tokens", type=int, metavar="N", help="stop after N tokens in any case")
    parser.add_argument("--num_continuations", type=int, default=1, metavar="N", help="of each prompt (default: 1)")
    parser.add_argument("--temperature", type=float, help="below 1 likely tokens become likelier (default: 1)")
    parser.add_argument("--top_k", type=int, metavar="K", help="draw among the K most likely tokens")
    parser.add_argument("--top_p", type=float, metavar="P", help="draw among the fewest tokens that have probability P")
    parser.add_argument("--min_p", type=float, metavar="P", help="draw among tokens P times as likely as the likeliest")
    parser.add_argument("--greedy", action="store_true", help="take the most likely token each time")
    parser.add_argument("--seed", type=int, help="the same seed gives the same music (default: other music each time)")
    parser.add_argument(
        "--allow_end", action="store_true", help="let the model end a piece before the length is reached"
    )
    parser.add_argument(
        "--output_dir", type=Path, metavar="FOLDER", help="write .mid, .png and .wav of all results here"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write prompt and continuation (.mid)")
    parser.add_argument("--continuation", type=Path, metavar="FILE", help="write the continuation alone (.mid)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a piano roll (.png)")
    parser.add_argument("--audio", type=Path, metavar="FILE", help="play it into a file (.wav)")
    parser.add_argument("--soundfont", type=Path, metavar="FILE", help="SoundFont 2 file (default: pretty_midi's)")
    parser.add_argument("--sampling_rate", type=int, default=44100, metavar="HZ", help="of the audio (default: 44100)")
    parser.add_argument("--stream", action="store_true", help="print each note as JSON as soon as it is generated")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps, ... (default: the fastest there is)")
    return parser.parse_args(argv)


def _generation_options(options: argparse.Namespace) -> "GenerationOptions":
    """Check them before anything is loaded."""
    _require_midi()
    from hf_audio_mamba.midi.generation_options import GenerationOptions

    names = [field.name for field in dataclasses.fields(GenerationOptions)]
    given = {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}
    generation = GenerationOptions(**given, do_sample=not options.greedy)
    if not options.stream and not generation.has_length:
        raise UsageError("say how long the continuation shall be: --seconds or --notes")
    if options.stream:
        if generation.num_continuations > 1 or len(options.prompt) > 1:
            raise UsageError("--stream plays one continuation of one prompt")
        unused = [
            name for name in (*Outputs._fields[1:], "output", "output_dir", "soundfont") if getattr(options, name)
        ]
        if unused:
            raise UsageError(f"--stream prints notes and writes no files: leave out --{unused[0]}")
    return generation


def _require_midi() -> None:
    for package in ("symusic", "miditok"):
        require(package, extra="midi", purpose="generating music")


def _check_outputs(options: argparse.Namespace, prompts: Sequence[Path | None]) -> None:
    files = [options.output, options.continuation, options.plot, options.audio]
    named = [path for path in files if path is not None]
    if not named and options.output_dir is None:
        raise UsageError("say where the music shall go: --output, --plot, --audio or --output_dir")
    if named and options.output_dir is not None:
        raise UsageError("--output_dir names its files itself: leave out --output, --continuation, --plot and --audio")
    if named and (len(prompts) > 1 or options.num_continuations > 1):
        raise UsageError("there are several continuations: write them with --output_dir")
    if len(set(named)) < len(named):
        raise UsageError("two outputs have the same name")
    existing = [prompt.resolve() for prompt in prompts if prompt is not None]
    for path in named:
        if path.is_dir() or path.resolve() in existing:
            raise UsageError(f"{path} is a folder or the prompt; choose another name for the output")
    if options.audio is None and options.output_dir is None and options.soundfont is not None:
        raise UsageError("--soundfont needs --audio or --output_dir")
    if options.audio is not None or options.output_dir is not None:
        _check_sound(options)
    if options.plot is not None or options.output_dir is not None:
        require("matplotlib", extra="viz", purpose="drawing piano rolls")


def _check_sound(options: argparse.Namespace) -> None:
    from hf_audio_mamba.midi.render import check_sound

    check_sound(options.soundfont, options.sampling_rate)


def _outputs(options: argparse.Namespace, prompts: Sequence[Path | None]) -> Iterator[Outputs]:
    """Places for all continuations, prompt by prompt; prompts of one name in several folders get numbers."""
    if options.output_dir is None:
        return iter([Outputs(options.output, options.continuation, options.plot, options.audio)])
    folder: Path = options.output_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--output_dir {folder} cannot be made: {error.strerror or error}") from error
    places: list[Outputs] = []
    used: set[str] = set()
    for prompt in prompts:
        stem = UNPROMPTED if prompt is None else printable(prompt.stem)
        stem = next(name for name in _numbered(stem) if name not in used)
        used.add(stem)
        for number in range(1, options.num_continuations + 1):
            name = f"{stem}_{number}"
            paths = [folder / f"{name}{end}" for end in (".mid", "_continuation.mid", ".png", ".wav")]
            places.append(Outputs(*paths))
    existing = {prompt.resolve() for prompt in prompts if prompt is not None}
    for place in places:
        for path in place:
            if path is not None and path.resolve() in existing:
                raise UsageError(f"{path} is a prompt; choose another --output_dir")
    return iter(places)


def _numbered(stem: str) -> Iterator[str]:
    return (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))


def _load_pipeline(options: argparse.Namespace) -> "MidiGenerationPipeline":
    from transformers.utils import logging as transformers_logging

    from hf_audio_mamba.hub import load_midi_model
    from hf_audio_mamba.pipelines import MidiGenerationPipeline

    device = usable_device(options.device)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    model, tokenizer = load_midi_model(options.model)
    return MidiGenerationPipeline(model=model, tokenizer=tokenizer, device=device)


if __name__ == "__main__":
    sys.exit(main())
