"""Turns a command line, and at most one YAML or JSON settings file, into the three argument dataclasses."""

import argparse
import json
from collections.abc import Sequence
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser

from hf_audio_mamba._optional import require
from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.training.arguments import AudioTrainingArguments, DataArguments, ModelArguments
from hf_audio_mamba.training.assignments import nearest

MAX_SETTINGS_BYTES = 1 << 20
"""A settings file holds a few dozen lines; more than this is refused before it is parsed."""

# Fields of TrainingArguments that a run of this package has no use for. Accepting one would be a silent no.
_UNUSED = {
    "do_train": "training always runs",
    "do_eval": "validation runs when --eval_strategy says so",
    "do_predict": "the test split is scored once, at the end",
    "hub_strategy": "the Hub is written to once, at the end",
    "hub_always_push": "the Hub is written to once, at the end",
    "auto_find_batch_size": "a batch size found by running out of memory cannot be reproduced",
    "deepspeed": "it is not supported",
    "fsdp": "it is not supported",
    "fsdp_config": "it is not supported",
    "save_only_model": "a checkpoint without optimiser cannot be resumed",
    "ignore_data_skip": "a resumed run must see the clips that the interrupted one would have seen",
    "length_column_name": "lengths come from the features",
    "label_names": "labels are always called labels",
    "data_seed": "--seed orders the clips",
    "gradient_checkpointing": "it is called --activation_checkpointing",
    "gradient_checkpointing_kwargs": "it is called --activation_checkpointing_kwargs",
}

# Shown by --help besides this package's own; the other fields of TrainingArguments work but would bury these.
_SHOWN = {
    *(item.name for kind in (ModelArguments, DataArguments) for item in fields(kind)),
    *AudioTrainingArguments.__annotations__,
    "max_steps",
    "gradient_accumulation_steps",
    "label_smoothing_factor",
    "max_grad_norm",
    "adam_beta1",
    "adam_beta2",
    "lr_scheduler_kwargs",
    "seed",
    "bf16",
    "use_cpu",
    "dataloader_num_workers",
    "resume_from_checkpoint",
} - {"remove_unused_columns", "restore_callback_states_from_checkpoint"}


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows each option under one of its names, and a default only where there is one."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = copy(action)
        shown.option_strings = [option for option in action.option_strings if "-" not in option[2:]]
        return super()._format_action_invocation(shown)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class _Parser(HfArgumentParser):
    """The parser of the three dataclasses; wrong usage raises instead of ending the process."""

    def __init__(self, prog: str) -> None:
        super().__init__(
            (ModelArguments, DataArguments, AudioTrainingArguments),
            prog=prog,
            usage=f"{prog} [SETTINGS.yaml] [--option value ...]",
            description="Train an audio classifier or regressor and evaluate it.",
            epilog="Every other field of transformers.TrainingArguments is accepted as an option too.",
            allow_abbrev=False,
            formatter_class=_Help,
        )
        for action in self._actions:
            if action.dest not in _SHOWN | {"help"} or any(o.startswith("--no_") for o in action.option_strings):
                action.help = argparse.SUPPRESS

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print and exit for."""
        raise UsageError(f"{message} (see {self.prog} --help)")

    def names(self) -> set[str]:
        """Names of all options, without dashes."""
        return {option.lstrip("-") for action in self._actions for option in action.option_strings}


def parse_arguments(
    argv: Sequence[str], *, prog: str = "hf-audio-mamba train"
) -> tuple[ModelArguments, DataArguments, AudioTrainingArguments]:
    """Parse a command line whose first word may be a settings file.

    The file is a flat mapping of option names to values, as YAML (`.yaml`, `.yml`) or JSON (`.json`); options on the
    command line win over it.

    Args:
        argv: Words after the program name.
        prog: Program name for help and messages.

    Raises:
        UsageError: For an unknown or unusable option, value or settings file.
    """
    words = list(argv)
    parser = _Parser(prog)
    from_file: list[str] = []
    if words and not words[0].startswith("-"):
        path = Path(words.pop(0))
        from_file = _as_words(_read_settings(path), parser, path)
    _refuse_unused(from_file + words)
    model_args, data_args, training_args, unknown = parser.parse_args_into_dataclasses(
        from_file + words, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        name = unknown[0].split("=")[0]
        if not name.startswith("-"):
            raise UsageError(f"{name!r} belongs to no option; a settings file must come first.")
        raise UsageError(f"There is no option {name}{nearest(name.lstrip('-'), parser.names())}")
    return model_args, data_args, training_args


def _refuse_unused(words: Sequence[str]) -> None:
    for word in words:
        name = word.split("=")[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and name in _UNUSED:
            raise UsageError(f"--{name} has no effect here: {_UNUSED[name]}. Leave it out.")


def _read_settings(path: Path) -> dict[str, Any]:
    if path.suffix.lower() not in {".yaml", ".yml", ".json"}:
        raise UsageError(f"{path}: a settings file ends in .yaml, .yml or .json; options start with --.")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SETTINGS_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the settings file cannot be read: {error}") from error
    if len(data) > MAX_SETTINGS_BYTES:
        raise UsageError(f"{path}: a settings file may hold at most {MAX_SETTINGS_BYTES:,} bytes.")
    try:
        loaded = _load_json(text) if path.suffix.lower() == ".json" else _load_yaml(text)
    except RecursionError as error:
        raise UsageError(f"{path}: nested too deeply; a settings file is a flat list of name: value.") from error
    except ValueError as error:  # UsageError of the loaders, broken JSON
        raise UsageError(f"{path}: {error}") from error
    if not isinstance(loaded, dict):
        raise UsageError(f"{path}: a settings file is a mapping of option names to values.")
    return loaded


def _load_json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for index, (key, _) in enumerate(pairs):
            if key in {earlier for earlier, _ in pairs[:index]}:
                raise UsageError(f"{key!r} is given twice.")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique)


def _load_yaml(text: str) -> Any:
    """Load YAML without tags that make objects, without aliases (which can grow without bound), without doubles."""
    yaml = require("yaml", extra="train", purpose="reading a YAML settings file")

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined]  # the base is imported on demand
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                event = self.peek_event()
                raise UsageError(f"line {event.start_mark.line + 1}: aliases (*{event.anchor}) are not accepted.")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise UsageError(f"line {key.start_mark.line + 1}: an option name must be a plain word.")
                if key.value in seen:
                    raise UsageError(f"line {key.start_mark.line + 1}: {key.value!r} is given twice.")
                seen.add(key.value)
            return super().construct_mapping(node, deep=deep)

    try:
        return yaml.load(text, Loader=Loader)  # the Loader is a SafeLoader
    except yaml.YAMLError as error:
        raise UsageError(f"not usable as YAML: {error}") from error


def _as_words(settings: dict[str, Any], parser: _Parser, path: Path) -> list[str]:
    """Spell settings as command-line words, so that one parser checks both."""
    words: list[str] = []
    for name, value in settings.items():
        if not isinstance(name, str) or name not in parser.names():
            raise UsageError(f"{path}: there is no option {name!r}{nearest(str(name), parser.names())}")
        if value is None:
            continue
        if isinstance(value, dict):
            words.append(f"--{name}={json.dumps(value)}")
        elif isinstance(value, list):
            words += [f"--{name}", *(str(item) for item in value)]
        else:
            words.append(f"--{name}={value}")
    return words
