"""The one check of inputs that all audio models share."""

from torch import Tensor

from hf_audio_mamba.errors import ShapeError


def check_frames(input_values: Tensor, attention_mask: Tensor | None, bands: int) -> None:
    """Refuse what is not `(batch, frames, bands)` with a mask `(batch, frames)` or none.

    Raises:
        ShapeError: The message names the argument and its shape.
    """
    if input_values.ndim != 3 or input_values.shape[2] != bands or input_values.shape[1] == 0:
        raise ShapeError(
            f"input_values must be (batch, frames, {bands}) with at least one frame, not "
            f"{tuple(input_values.shape)}; make them with the feature extractor saved beside this model"
        )
    if attention_mask is not None and attention_mask.shape != input_values.shape[:2]:
        raise ShapeError(
            f"attention_mask must be (batch, frames) = {tuple(input_values.shape[:2])}, "
            f"not {tuple(attention_mask.shape)}"
        )


__all__ = ["check_frames"]
