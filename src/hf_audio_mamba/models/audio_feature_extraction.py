"""What the feature extractors of all audio models share: reading clips, checking arguments, padding batches."""

import numbers
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import PaddingStrategy, TensorType, logging

from hf_audio_mamba.errors import AudioError, UsageError
from hf_audio_mamba.features import as_waveform, check_sampling_rate
from hf_audio_mamba.features.samples import MAX_CHANNELS, Float32Array

logger = logging.get_logger(__name__)

# What Transformers itself writes into preprocessor_config.json.
_FOREIGN_KEYS = frozenset({"auto_map", "feature_extractor_type", "processor_class"})


class AudioFeatureExtractor(SequenceFeatureExtractor):
    """Base: turns waveforms into `(frames, feature_size)` by `_extract`, and pads them to a batch.

    A subclass also has `num_mel_bins` and says what its numbers mean by `floor`, `ceiling` and `units_per_db`, from
    which training derives its changes of level.

    Args:
        feature_size: Values a frame.
        sampling_rate: In Hz.
        hop_length: Samples from frame to frame.
        padding_side: `"left"` or `"right"`.
        padding_value: Value of padded frames; models ignore them by the mask.
        return_attention_mask: Return the mask by default.

    Raises:
        UsageError: If a setting is out of range, contradictory or unknown.
    """

    model_input_names = ["input_values", "attention_mask"]  # noqa: RUF012  # as Transformers declares it

    def __init__(
        self,
        *,
        feature_size: int,
        sampling_rate: int,
        hop_length: int,
        padding_side: str,
        padding_value: float,
        return_attention_mask: bool,
        **kwargs: Any,
    ) -> None:
        unknown = sorted(kwargs.keys() - _FOREIGN_KEYS)
        if unknown:
            raise UsageError(f"{type(self).__name__} has no setting {', '.join(unknown)}; check the spelling")
        check_flags(return_attention_mask=return_attention_mask)
        _check_padding_settings(padding_side, padding_value)
        self.hop_length = hop_length
        super().__init__(
            feature_size=feature_size,
            sampling_rate=_checked_rate(sampling_rate),
            padding_value=padding_value,
            padding_side=padding_side,
            return_attention_mask=return_attention_mask,
            **kwargs,
        )

    @property
    def frames_per_second(self) -> float:
        """Frames for each second of audio."""
        return float(self.sampling_rate / self.hop_length)

    @property
    def floor(self) -> float:
        """Feature value of silence in the mel bands."""
        raise NotImplementedError

    @property
    def ceiling(self) -> float:
        """Largest feature value of the mel bands; infinite where levels are absolute.

        Where it is finite, levels are relative to the clip's loudest cell, which has this value.
        """
        raise NotImplementedError

    @property
    def units_per_db(self) -> float:
        """Step of the mel bands' features for one dB."""
        raise NotImplementedError

    @property
    def chroma_floor(self) -> float:
        """Feature value of silence in the bands behind the mel bands; as `floor` where there are none."""
        return self.floor

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        padding: bool | str | PaddingStrategy = True,
        max_length: int | None = None,
        truncation: bool = False,
        return_tensors: str | TensorType | None = None,
        return_attention_mask: bool | None = None,
    ) -> BatchFeature:
        """Compute the features of one clip or of a batch.

        Args:
            raw_speech: A clip, `(samples,)`, as array, tensor or list of numbers; a batch `(batch, samples)` of mono
                clips; or a list of clips, each in any form that `features.as_waveform` takes (stereo arrays, dicts,
                paths and decoders among them).
            sampling_rate: Rate of arrays, tensors and lists in Hz. Another one than the extractor's is an error,
                none a warning; clips that carry their own rate are resampled.
            padding: `True` or `"longest"`, `"max_length"`, or `False` or `"do_not_pad"`.
            max_length: In frames; for `padding="max_length"` and `truncation`.
            truncation: Cut clips to their first `max_length` frames.
            return_tensors: `"pt"` or `"np"`; by default numpy arrays.
            return_attention_mask: Whether to return the mask; by default as set in the extractor.

        Returns:
            `input_values (batch, frames, feature_size)`, float32, and `attention_mask (batch, frames)`, 1 for frames
            of the clip and 0 for padding. Without padding, lists of `(frames, feature_size)`.

        Raises:
            AudioError: If a clip cannot be used or has another sampling rate; the message names it.
            UsageError: On contradictory padding options.
        """
        self._check_sampling_rate(sampling_rate)
        _check_padding_options(padding, max_length, truncation)
        clips = _split_batch(raw_speech)
        if sampling_rate is None and not all(_carries_rate(clip) for _, clip in clips):
            logger.warning_once(
                f"Pass `sampling_rate` to {type(self).__name__}: without it, audio at another rate than "
                f"{self.sampling_rate} Hz gives wrong features and no error."
            )
        features = [
            self._extract(as_waveform(clip, sampling_rate=self.sampling_rate, name=name)) for name, clip in clips
        ]
        return self.pad(
            BatchFeature({"input_values": features}),
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            return_tensors=return_tensors,
            return_attention_mask=return_attention_mask,
        )

    def _extract(self, waveform: Float32Array) -> Float32Array:
        """Compute `(frames, feature_size)` of one mono clip `(samples,)` at `sampling_rate`."""
        raise NotImplementedError

    def _check_sampling_rate(self, sampling_rate: int | None) -> None:
        if sampling_rate is None:
            return
        rate = check_sampling_rate(sampling_rate)
        if rate != self.sampling_rate:
            raise AudioError(
                f"raw_speech has a sampling rate of {rate} Hz, but this feature extractor works at "
                f"{self.sampling_rate} Hz; resample it first: "
                f"features.resample(waveform, {rate}, {self.sampling_rate})"
            )


def _split_batch(raw_speech: Any) -> list[tuple[str, Any]]:
    """Tell a clip from a batch of clips and name each clip for messages."""
    if isinstance(raw_speech, (np.ndarray, torch.Tensor)):
        if raw_speech.ndim != 2:
            return [("raw_speech", raw_speech)]
        if raw_speech.shape[1] <= MAX_CHANNELS < raw_speech.shape[0]:
            raise AudioError(
                f"raw_speech has shape {tuple(raw_speech.shape)}, which reads as a batch of very short clips; for one "
                "clip of several channels pass [clip], for a batch (batch, samples)"
            )
        is_batch = True
    else:
        is_batch = isinstance(raw_speech, (list, tuple)) and len(raw_speech) > 0 and _is_clip(raw_speech[0])
    if not is_batch:
        return [("raw_speech", raw_speech)]
    return [(f"raw_speech[{index}]", clip) for index, clip in enumerate(raw_speech)]


def _is_clip(value: Any) -> bool:
    """Whether an element of a list is a clip, as opposed to a sample."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim > 0
    kinds = (Mapping, list, tuple, str, bytes, bytearray, os.PathLike)
    return isinstance(value, kinds) or hasattr(value, "get_all_samples")


def _carries_rate(clip: Any) -> bool:
    """Whether the rate comes with the clip: files, decoders, dicts."""
    return not isinstance(clip, (np.ndarray, torch.Tensor, list, tuple))


def check_flags(**flags: Any) -> None:
    """Refuse settings that are not true or false; stored files hold anything."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise UsageError(f"{name} must be true or false, but is {flag!r}")


def _checked_rate(sampling_rate: Any) -> int:
    try:
        return check_sampling_rate(sampling_rate)
    except AudioError as error:
        raise UsageError(str(error)) from error


def _check_padding_settings(padding_side: Any, padding_value: Any) -> None:
    if padding_side not in ("left", "right"):
        raise UsageError(f"padding_side must be 'left' or 'right', but is {padding_side!r}")
    is_number = isinstance(padding_value, (int, float)) and not isinstance(padding_value, bool)
    if not is_number or not np.isfinite(padding_value):
        raise UsageError(f"padding_value must be a finite number, but is {padding_value!r}")


def _check_padding_options(padding: Any, max_length: Any, truncation: Any) -> None:
    strategies = (True, False, *(strategy.value for strategy in PaddingStrategy))
    if padding not in strategies:
        raise UsageError(f"padding must be one of {strategies}, but is {padding!r}")
    if max_length is None:
        if truncation or padding == PaddingStrategy.MAX_LENGTH.value:
            raise UsageError("truncation and padding='max_length' need max_length, a number of frames")
    elif isinstance(max_length, bool) or not isinstance(max_length, numbers.Integral) or max_length < 1:
        raise UsageError(f"max_length must be a positive number of frames, but is {max_length!r}")


def checked_feature_size(num_mel_bins: Any, stated: Any, *, further_rows: int = 0) -> int:
    """Values a frame: the mel bands and what stands behind them. A stated `feature_size` must agree.

    Raises:
        UsageError: If it does not, or the number of bands cannot be used.
    """
    if isinstance(num_mel_bins, bool) or not isinstance(num_mel_bins, int) or num_mel_bins < 2:
        # Of one value a frame Transformers would think that it is a waveform, and pad it as one.
        raise UsageError(f"num_mel_bins must be a whole number of at least 2, but is {num_mel_bins!r}")
    size = num_mel_bins + further_rows
    if stated not in (None, size):
        raise UsageError(
            f"feature_size {stated!r} contradicts num_mel_bins {num_mel_bins} and {further_rows} further rows, which "
            f"make {size}; leave feature_size out"
        )
    return size


__all__ = ["AudioFeatureExtractor", "check_flags", "checked_feature_size"]
