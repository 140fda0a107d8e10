"""Make the stock `pipeline("audio-classification")` build our pipeline for our models, and for no others.

transformers has no public way to add a pipeline for one model type: a registry entry belongs to a task. So the entry's
factory is replaced by one that looks at the model first and hands every model that is not ours to the factory that
stood there before. `pipeline("midi-generation")` is a task of our own and needs no more than an entry.
"""

import pkgutil
from typing import Any

from hf_audio_mamba.models import MODEL_TYPES

TASK = "audio-classification"
MIDI_TASK = "midi-generation"


class AudioClassificationFactory:
    """Builds the pipeline that a model needs; stands in the registry where transformers expects a pipeline class.

    Args:
        fallback: What the registry held before: a pipeline class or its dotted name (transformers registers names, so
            that a pipeline's module is imported on first use only).
    """

    def __init__(self, fallback: Any) -> None:
        self._fallback = fallback

    def __getattr__(self, name: str) -> Any:
        # `pipeline()` reads `_load_tokenizer`, `_load_feature_extractor`, ... to know what to fetch from the model's
        # folder before it builds anything. Ours needs the same parts as the stock pipeline.
        if name.startswith("_load_"):
            return getattr(self._resolve_fallback(), name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __call__(self, *, model: Any, **kwargs: Any) -> Any:
        """Build the pipeline for a loaded model; `kwargs` are those of the pipeline class, which checks them."""
        if getattr(model.config, "model_type", None) in MODEL_TYPES:
            from hf_audio_mamba.pipelines.audio_classification import AudioClassificationPipeline

            return AudioClassificationPipeline(model=model, **kwargs)
        return self._resolve_fallback()(model=model, **kwargs)

    def _resolve_fallback(self) -> Any:
        return pkgutil.resolve_name(self._fallback) if isinstance(self._fallback, str) else self._fallback


def register_pipelines() -> None:
    """Let `transformers.pipeline("audio-classification", model=...)` serve this package's models; add the MIDI task.

    Cheap: it imports `transformers.pipelines`, swaps one registry entry and adds one. Calling it again changes nothing.
    Models of other packages keep the pipeline, the results and the errors that they had.
    """
    from transformers.pipelines import PIPELINE_REGISTRY

    entry = PIPELINE_REGISTRY.supported_tasks[TASK]
    if not isinstance(entry["impl"], AudioClassificationFactory):
        # Not through `register_pipeline`: it would log "already registered. Overwriting" at every import, drop the
        # task's default model, and mark the class so that saving a pipeline copies its source next to the weights.
        entry["impl"] = AudioClassificationFactory(entry["impl"])
    text_generation = PIPELINE_REGISTRY.supported_tasks["text-generation"]
    PIPELINE_REGISTRY.supported_tasks.setdefault(
        MIDI_TASK,
        {
            "impl": "hf_audio_mamba.pipelines.midi_generation.MidiGenerationPipeline",  # imported on first use
            "pt": text_generation["pt"],
            "type": "text",
        },
    )
