"""Pipelines: a trained model and its feature extractor or tokenizer behind one call on audio or MIDI."""

from typing import TYPE_CHECKING

from hf_audio_mamba._lazy import attach
from hf_audio_mamba.pipelines.registration import register_pipelines

if TYPE_CHECKING:
    from hf_audio_mamba.pipelines.audio_classification import AudioClassificationPipeline
    from hf_audio_mamba.pipelines.midi_generation import MidiGenerationPipeline

__all__ = ["AudioClassificationPipeline", "MidiGenerationPipeline", "register_pipelines"]

# Not imported at once: registration needs no pipeline class, and its base class takes seconds to import.
__getattr__ = attach(
    __name__,
    {"AudioClassificationPipeline": ".audio_classification", "MidiGenerationPipeline": ".midi_generation"},
)
