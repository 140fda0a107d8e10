"""Symbolic music: MIDI files as tokens for `MambaForCausalLM`, and music out of it. Needs the extra `midi`."""

from typing import TYPE_CHECKING

from hf_audio_mamba._lazy import attach

if TYPE_CHECKING:
    from hf_audio_mamba.midi.continuation import Continuation
    from hf_audio_mamba.midi.files import read_midi
    from hf_audio_mamba.midi.generation import MidiGenerator
    from hf_audio_mamba.midi.generation_options import GenerationOptions
    from hf_audio_mamba.midi.grammar import MidiGrammar, MidiGrammarLogitsProcessor
    from hf_audio_mamba.midi.note_reader import TimedNote
    from hf_audio_mamba.midi.render import render_score, save_audio
    from hf_audio_mamba.midi.tokenizer import MidiTokenizer
    from hf_audio_mamba.midi.vocabulary import TOKENIZATIONS
    from hf_audio_mamba.midi.writing import save_score

_MODULES = {
    "Continuation": ".continuation",
    "GenerationOptions": ".generation_options",
    "MidiGenerator": ".generation",
    "MidiGrammar": ".grammar",
    "MidiGrammarLogitsProcessor": ".grammar",
    "MidiTokenizer": ".tokenizer",
    "TOKENIZATIONS": ".vocabulary",
    "TimedNote": ".note_reader",
    "read_midi": ".files",
    "render_score": ".render",
    "save_audio": ".render",
    "save_score": ".writing",
}

__all__ = [
    "TOKENIZATIONS",
    "Continuation",
    "GenerationOptions",
    "MidiGenerator",
    "MidiGrammar",
    "MidiGrammarLogitsProcessor",
    "MidiTokenizer",
    "TimedNote",
    "read_midi",
    "render_score",
    "save_audio",
    "save_score",
]

__getattr__ = attach(__name__, _MODULES)
