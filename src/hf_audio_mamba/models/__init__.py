"""The models. `MODEL_TYPES` names them without importing any of their code."""

MODEL_TYPES: dict[str, str] = {"audio_mamba": "AudioMamba", "aum": "AuM", "momamba": "MoMamba"}
"""Model type, which is also the name of the folder, and how the names of its classes begin."""

__all__ = ["MODEL_TYPES"]
