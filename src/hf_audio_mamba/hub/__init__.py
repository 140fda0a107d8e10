"""Models and the Hub: model cards, uploading a run, and loading folders that nobody vouches for."""

from hf_audio_mamba.hub.card_data import CardData, DataDescription, MetricValue, SplitSize
from hf_audio_mamba.hub.midi_model import load_midi_model
from hf_audio_mamba.hub.model_card import command_line, render_model_card
from hf_audio_mamba.hub.push import push_folder
from hf_audio_mamba.hub.safe_loading import check_model_folder, load_classifier

__all__ = [
    "CardData",
    "DataDescription",
    "MetricValue",
    "SplitSize",
    "check_model_folder",
    "command_line",
    "load_classifier",
    "load_midi_model",
    "push_folder",
    "render_model_card",
]
