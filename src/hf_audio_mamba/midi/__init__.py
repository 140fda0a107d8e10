"""Symbolic music: MIDI files as tokens for `MambaForCausalLM`, and music out of it. Needs the extra `midi`."""

from typing import TYPE_CHECKING

from hf_audio_mamba._lazy import attach

if TYPE_CHECKING:
    from hf_audio_mamba.midi.continuation import Continuation
    from hf_audio_mamba.midi.dataset import MidiDataset, load_midi_dataset
    from hf_audio_mamba.midi.evaluation import (
        ModelScores,
        TokenizedPiece,
        check_equal_grids,
        describe_music,
        evaluate_model,
        find_music,
        music_grid,
        read_pieces,
    )
    from hf_audio_mamba.midi.files import read_midi
    from hf_audio_mamba.midi.generation import MidiGenerator
    from hf_audio_mamba.midi.generation_options import GenerationOptions
    from hf_audio_mamba.midi.grammar import MidiGrammar, MidiGrammarLogitsProcessor
    from hf_audio_mamba.midi.maestro import download_maestro
    from hf_audio_mamba.midi.ngrams import WittenBell
    from hf_audio_mamba.midi.note_reader import TimedNote
    from hf_audio_mamba.midi.pieces import PieceSplits, find_pieces
    from hf_audio_mamba.midi.render import render_score, save_audio
    from hf_audio_mamba.midi.score_notes import music_seconds, note_array
    from hf_audio_mamba.midi.scoring import ScoringContext, carries_state, scoring_context, token_nats
    from hf_audio_mamba.midi.tokenizer import MidiTokenizer
    from hf_audio_mamba.midi.vocabulary import TOKENIZATIONS
    from hf_audio_mamba.midi.windows import TokenWindows, WindowCollator
    from hf_audio_mamba.midi.writing import save_score

_MODULES = {
    ".continuation": ("Continuation",),
    ".dataset": (
        "MidiDataset",
        "load_midi_dataset",
    ),
    ".evaluation": (
        "ModelScores",
        "TokenizedPiece",
        "check_equal_grids",
        "describe_music",
        "evaluate_model",
        "find_music",
        "music_grid",
        "read_pieces",
    ),
    ".files": ("read_midi",),
    ".generation": ("MidiGenerator",),
    ".generation_options": ("GenerationOptions",),
    ".grammar": (
        "MidiGrammar",
        "MidiGrammarLogitsProcessor",
    ),
    ".maestro": ("download_maestro",),
    ".ngrams": ("WittenBell",),
    ".note_reader": ("TimedNote",),
    ".pieces": (
        "PieceSplits",
        "find_pieces",
    ),
    ".render": (
        "render_score",
        "save_audio",
    ),
    ".score_notes": (
        "music_seconds",
        "note_array",
    ),
    ".scoring": (
        "ScoringContext",
        "carries_state",
        "scoring_context",
        "token_nats",
    ),
    ".tokenizer": ("MidiTokenizer",),
    ".vocabulary": ("TOKENIZATIONS",),
    ".windows": (
        "TokenWindows",
        "WindowCollator",
    ),
    ".writing": ("save_score",),
}

__all__ = [
    "TOKENIZATIONS",
    "Continuation",
    "GenerationOptions",
    "MidiDataset",
    "MidiGenerator",
    "MidiGrammar",
    "MidiGrammarLogitsProcessor",
    "MidiTokenizer",
    "ModelScores",
    "PieceSplits",
    "ScoringContext",
    "TimedNote",
    "TokenWindows",
    "TokenizedPiece",
    "WindowCollator",
    "WittenBell",
    "carries_state",
    "check_equal_grids",
    "describe_music",
    "download_maestro",
    "evaluate_model",
    "find_music",
    "find_pieces",
    "load_midi_dataset",
    "music_grid",
    "music_seconds",
    "note_array",
    "read_midi",
    "read_pieces",
    "render_score",
    "save_audio",
    "save_score",
    "scoring_context",
    "token_nats",
]

__getattr__ = attach(__name__, {name: module for module, names in _MODULES.items() for name in names})
