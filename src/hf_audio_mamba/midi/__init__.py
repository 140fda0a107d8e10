"""Symbolic music: MIDI files as tokens for `MambaForCausalLM`, and music out of it. Needs the extra `midi`."""

from typing import TYPE_CHECKING

from hf_audio_mamba._lazy import attach

if TYPE_CHECKING:
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
    from hf_audio_mamba.midi.maestro import download_maestro
    from hf_audio_mamba.midi.ngrams import WittenBell
    from hf_audio_mamba.midi.pieces import PieceSplits, find_pieces
    from hf_audio_mamba.midi.score_notes import music_seconds, note_array
    from hf_audio_mamba.midi.scoring import ScoringContext, carries_state, scoring_context, token_nats
    from hf_audio_mamba.midi.tokenizer import MidiTokenizer
    from hf_audio_mamba.midi.vocabulary import TOKENIZATIONS
    from hf_audio_mamba.midi.windows import TokenWindows, WindowCollator

_MODULES = {
    "MidiDataset": ".dataset",
    "MidiTokenizer": ".tokenizer",
    "ModelScores": ".evaluation",
    "PieceSplits": ".pieces",
    "ScoringContext": ".scoring",
    "TOKENIZATIONS": ".vocabulary",
    "TokenWindows": ".windows",
    "TokenizedPiece": ".evaluation",
    "WindowCollator": ".windows",
    "WittenBell": ".ngrams",
    "carries_state": ".scoring",
    "check_equal_grids": ".evaluation",
    "describe_music": ".evaluation",
    "download_maestro": ".maestro",
    "evaluate_model": ".evaluation",
    "find_music": ".evaluation",
    "find_pieces": ".pieces",
    "load_midi_dataset": ".dataset",
    "music_grid": ".evaluation",
    "music_seconds": ".score_notes",
    "note_array": ".score_notes",
    "read_midi": ".files",
    "read_pieces": ".evaluation",
    "scoring_context": ".scoring",
    "token_nats": ".scoring",
}

__all__ = [
    "TOKENIZATIONS",
    "MidiDataset",
    "MidiTokenizer",
    "ModelScores",
    "PieceSplits",
    "ScoringContext",
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
    "scoring_context",
    "token_nats",
]

__getattr__ = attach(__name__, _MODULES)
