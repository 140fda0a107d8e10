"""Symbolic music: MIDI files as tokens for `MambaForCausalLM`, and music out of it. Needs the extra `midi`."""

from typing import TYPE_CHECKING

from hf_audio_mamba._lazy import attach

if TYPE_CHECKING:
    from hf_audio_mamba.midi.dataset import MidiDataset, load_midi_dataset
    from hf_audio_mamba.midi.files import read_midi
    from hf_audio_mamba.midi.maestro import download_maestro
    from hf_audio_mamba.midi.ngrams import WittenBell
    from hf_audio_mamba.midi.pieces import PieceSplits, find_pieces
    from hf_audio_mamba.midi.tokenizer import MidiTokenizer
    from hf_audio_mamba.midi.vocabulary import TOKENIZATIONS
    from hf_audio_mamba.midi.windows import TokenWindows, WindowCollator

_MODULES = {
    "MidiDataset": ".dataset",
    "MidiTokenizer": ".tokenizer",
    "PieceSplits": ".pieces",
    "TOKENIZATIONS": ".vocabulary",
    "TokenWindows": ".windows",
    "WindowCollator": ".windows",
    "WittenBell": ".ngrams",
    "download_maestro": ".maestro",
    "find_pieces": ".pieces",
    "load_midi_dataset": ".dataset",
    "read_midi": ".files",
}

__all__ = [
    "TOKENIZATIONS",
    "MidiDataset",
    "MidiTokenizer",
    "PieceSplits",
    "TokenWindows",
    "WindowCollator",
    "WittenBell",
    "download_maestro",
    "find_pieces",
    "load_midi_dataset",
    "read_midi",
]

__getattr__ = attach(__name__, _MODULES)
