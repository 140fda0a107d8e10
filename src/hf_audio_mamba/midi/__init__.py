"""Symbolic music: MIDI files as tokens for `MambaForCausalLM`, and music out of it. Needs the extra `midi`."""

from typing import TYPE_CHECKING

from hf_audio_mamba._lazy import attach

if TYPE_CHECKING:
    from hf_audio_mamba.midi.files import read_midi
    from hf_audio_mamba.midi.tokenizer import MidiTokenizer
    from hf_audio_mamba.midi.vocabulary import TOKENIZATIONS

__all__ = ["TOKENIZATIONS", "MidiTokenizer", "read_midi"]

__getattr__ = attach(__name__, {"MidiTokenizer": ".tokenizer", "TOKENIZATIONS": ".vocabulary", "read_midi": ".files"})
