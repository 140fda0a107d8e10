"""The models. `MODEL_TYPES` names them without importing any of their code."""

MODEL_TYPES: tuple[str, ...] = ("momamba",)

__all__ = ["MODEL_TYPES"]
