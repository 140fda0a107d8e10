"""The models. `MODEL_TYPES` names them without importing any of their code."""

MODEL_TYPES: dict[str, str] = {"audio_mamba": "AudioMamba", "aum": "AuM", "htsat": "HTSAT", "momamba": "MoMamba"}
"""Model type, which is also the name of the folder, and how the names of its classes begin."""

FEATURE_EXTRACTORS: dict[str, str] = {"htsat": "audio_mamba"}
"""Model types without a feature extractor of their own, and the model type whose features they take."""

__all__ = ["FEATURE_EXTRACTORS", "MODEL_TYPES"]
