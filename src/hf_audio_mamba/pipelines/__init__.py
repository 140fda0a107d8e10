"""Pipelines: a trained model and its feature extractor behind one call on a file, a URL or an array."""

from typing import TYPE_CHECKING

from hf_audio_mamba._lazy import attach
from hf_audio_mamba.pipelines.registration import register_pipelines

if TYPE_CHECKING:
    from hf_audio_mamba.pipelines.audio_classification import AudioClassificationPipeline

__all__ = ["AudioClassificationPipeline", "register_pipelines"]

# Not imported at once: registration needs no pipeline class, and its base class takes seconds to import.
__getattr__ = attach(__name__, {"AudioClassificationPipeline": ".audio_classification"})
