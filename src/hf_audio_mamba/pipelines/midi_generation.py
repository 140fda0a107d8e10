"""The pipeline for music: MIDI in, its continuations out."""

import dataclasses
import difflib
from collections.abc import Iterator
from typing import Any

from transformers.pipelines.base import Pipeline

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.midi.continuation import Continuation
from hf_audio_mamba.midi.generation import MidiGenerator
from hf_audio_mamba.midi.generation_options import GenerationOptions
from hf_audio_mamba.midi.note_reader import TimedNote

_OPTIONS = tuple(field.name for field in dataclasses.fields(GenerationOptions))
# `pipeline()` uses it to load the model and passes it on all the same.
_FACTORY_ARGUMENTS = ("local_files_only",)


class MidiGenerationPipeline(Pipeline):
    """Continues music with a causal language model; `pipeline("midi-generation", model=...)` builds it.

    Args:
        model: `MambaForCausalLM`, which then runs on this package's operations, or another causal language model.
        tokenizer: The `MidiTokenizer` saved beside it.
        batch_size: Prompts that are continued side by side, 1 by default; it changes no result.
        **kwargs: Any option of `hf_audio_mamba.midi.GenerationOptions` as a default for all calls, and `device` and the
            others of `transformers.Pipeline`.

    Raises:
        CheckpointError: If the vocabularies of model and tokenizer do not fit.
        UsageError: If an option is unknown or unusable, or the tokenizer knows no music.

    Example:
        >>> import hf_audio_mamba
        >>> from transformers import pipeline
        >>> continue_music = pipeline("midi-generation", model="my_model")  # doctest: +SKIP
        >>> [first] = continue_music("prompt.mid", seconds=30, top_p=0.95, seed=0)  # doctest: +SKIP
        >>> first.score.dump_midi("continued.mid")  # doctest: +SKIP
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not hasattr(self.tokenizer, "decode_midi"):
            raise UsageError("the midi-generation pipeline needs a MidiTokenizer: pass tokenizer=...")
        self._generator = MidiGenerator(self.model.eval(), self.tokenizer)

    def __call__(self, prompts: Any = None, *, batch_size: int | None = None, **kwargs: Any) -> Any:
        """Continue one prompt or many.

        Args:
            prompts: A path of a MIDI file, what it holds, a `symusic.Score`, token ids, or None to begin with nothing;
                or a list of these.
            batch_size: As for the class, for this call.
            **kwargs: Options of `hf_audio_mamba.midi.GenerationOptions` for this call, a length among them.

        Returns:
            For one prompt a list of `num_continuations` `hf_audio_mamba.midi.Continuation`; for a list of prompts a
            list of these.

        Raises:
            CheckpointError: If the model's scores are not finite.
            MidiError: If a prompt cannot be read or has no notes.
            UsageError: If an option is unknown or unusable, or no length is given.
        """
        options = self._options(kwargs)
        size = batch_size if batch_size is not None else self._batch_size or 1
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise UsageError(f"batch_size must be a whole number, 1 or more, not {size!r}")
        if not _is_list_of_prompts(prompts):
            return self.postprocess(self.forward(self.preprocess([prompts]), options=options))[0]
        found = []
        for start in range(0, len(prompts), size):
            inputs = self.preprocess(prompts[start : start + size], first=start)
            found += self.postprocess(self.forward(inputs, options=options))
        return found

    def stream(self, prompt: Any = None, **kwargs: Any) -> Iterator[TimedNote]:
        """Continue one prompt note by note; see `hf_audio_mamba.midi.MidiGenerator.stream`.

        Args:
            prompt: As for a call.
            **kwargs: Options of `hf_audio_mamba.midi.GenerationOptions`; without a length it has no end.
        """
        return self._generator.stream(prompt, self._options(kwargs))

    def preprocess(self, input_: Any, first: int = 0) -> dict[str, Any]:
        """Put prompts together.

        Args:
            input_: Prompts of one batch.
            first: Number of the first of them.
        """
        return {"prompts": list(input_), "first": first}

    def _forward(self, input_tensors: dict[str, Any], options: GenerationOptions) -> dict[str, Any]:
        found = self._generator.generate(input_tensors["prompts"], options, first=input_tensors["first"])
        return {"continuations": found}

    def postprocess(self, model_outputs: dict[str, Any]) -> list[list[Continuation]]:
        """The continuations of each prompt of a batch."""
        found: list[list[Continuation]] = model_outputs["continuations"]
        return found

    def _sanitize_parameters(self, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        for name in arguments:
            if name not in (*_OPTIONS, *_FACTORY_ARGUMENTS):
                similar = difflib.get_close_matches(name, _OPTIONS, n=1)
                hint = f"did you mean {similar[0]}?" if similar else f"known are {', '.join(_OPTIONS)}"
                raise UsageError(f"the midi-generation pipeline has no argument {name!r}; {hint}")
        options = {name: value for name, value in arguments.items() if name in _OPTIONS}
        GenerationOptions(**options)
        return {}, options, {}

    def _options(self, arguments: dict[str, Any]) -> GenerationOptions:
        _, options, _ = self._sanitize_parameters(**self._forward_params | arguments)
        return GenerationOptions(**options)


def _is_list_of_prompts(prompts: Any) -> bool:
    """Whether a sequence is of prompts; one of whole numbers is the ids of one."""
    if not isinstance(prompts, (list, tuple)):
        return False
    return not prompts or not all(isinstance(prompt, int) for prompt in prompts)
