"""Feature extractor of MoMamba: waveform to log-mel spectrogram, on request with chroma (MoMamba, section 4.1)."""

import numbers
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import PaddingStrategy, TensorType, logging

from hf_audio_mamba.errors import AudioError, UsageError
from hf_audio_mamba.features import LogMel, as_waveform, check_sampling_rate, chroma_stft
from hf_audio_mamba.features.chroma import NUM_CHROMA
from hf_audio_mamba.features.samples import MAX_CHANNELS, Float32Array

logger = logging.get_logger(__name__)

# What Transformers itself writes into preprocessor_config.json.
_FOREIGN_KEYS = frozenset({"auto_map", "feature_extractor_type", "processor_class"})


class MoMambaFeatureExtractor(SequenceFeatureExtractor):
    """Turns waveforms into log-mel spectrograms, time first, padded to a batch.

    Args:
        feature_size: Values a frame, `num_mel_bins` plus 12 with chroma. Derived; if given, it must agree.
        sampling_rate: In Hz.
        n_fft: Transform length in samples, even. 2646 samples are 60 ms at 44.1 kHz.
        win_length: Length of the Hann window in samples.
        hop_length: Samples from frame to frame. 441 samples are 10 ms at 44.1 kHz.
        num_mel_bins: Mel bands (Slaney), from 0 Hz to half the sampling rate.
        chroma: Append the twelve rows of a chromagram, as the paper does for EmoMusic.
        do_normalize: Map dB from [-top_db, 0] and chroma from [0, 1] to [-1, 1]. The paper names no normalisation;
            `False` gives the dB values and chroma as they are.
        top_db: Dynamic range in dB below the clip's loudest value.
        padding_side: `"left"` keeps the end of a clip next to a class token at the end; or `"right"`.
        padding_value: Value of padded frames; models ignore them by the mask.
        return_attention_mask: Return the mask by default.

    Raises:
        UsageError: If a setting is out of range, contradictory or unknown.

    Example:
        >>> extractor = MoMambaFeatureExtractor()
        >>> inputs = extractor(waveform, sampling_rate=44100, return_tensors="pt")  # 4 s
        >>> inputs["input_values"].shape
        torch.Size([1, 401, 128])
    """

    model_input_names = ["input_values", "attention_mask"]  # noqa: RUF012  # as Transformers declares it

    def __init__(
        self,
        feature_size: int | None = None,
        sampling_rate: int = 44100,
        n_fft: int = 2646,
        win_length: int = 2646,
        hop_length: int = 441,
        num_mel_bins: int = 128,
        chroma: bool = False,
        do_normalize: bool = True,
        top_db: float = 80.0,
        padding_side: str = "left",
        padding_value: float = 0.0,
        return_attention_mask: bool = True,
        **kwargs: Any,
    ) -> None:
        unknown = sorted(kwargs.keys() - _FOREIGN_KEYS)
        if unknown:
            raise UsageError(f"MoMambaFeatureExtractor has no setting {', '.join(unknown)}; check the spelling")
        _check_flags(chroma=chroma, do_normalize=do_normalize, return_attention_mask=return_attention_mask)
        _check_padding_settings(padding_side, padding_value)
        self.n_fft = n_fft
        self.win_length = win_length
        self.hop_length = hop_length
        self.num_mel_bins = num_mel_bins
        self.chroma = chroma
        self.do_normalize = do_normalize
        self.top_db = top_db
        super().__init__(
            feature_size=_feature_size(num_mel_bins, chroma, feature_size),
            sampling_rate=_checked_rate(sampling_rate),
            padding_value=padding_value,
            padding_side=padding_side,
            return_attention_mask=return_attention_mask,
            **kwargs,
        )
        _ = self.log_mel  # checks the other settings

    @property
    def frames_per_second(self) -> float:
        """Frames for each second of audio."""
        return float(self.sampling_rate / self.hop_length)

    @property
    def log_mel(self) -> LogMel:
        """The transform behind the mel bands, in dB."""
        return LogMel(self.sampling_rate, self.n_fft, self.win_length, self.hop_length, self.num_mel_bins, self.top_db)

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

        A clip has `1 + samples // hop_length` frames. One that is shorter than a window is padded with silence to one
        window; silence gives a flat spectrogram of 0 dB.

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
        """Compute `(frames, feature_size)` of one clip."""
        log_mel = self.log_mel
        # torch takes neither reversed nor read-only arrays.
        samples = torch.from_numpy(np.require(waveform, requirements=["C", "W"]))
        features = log_mel(samples)
        if self.do_normalize:
            features = features / (self.top_db / 2) + 1
        if self.chroma:
            chroma = chroma_stft(samples, log_mel.settings)
            features = torch.cat((features, 2 * chroma - 1 if self.do_normalize else chroma), dim=1)
        result: Float32Array = features.numpy()
        return result

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


def _check_flags(**flags: Any) -> None:
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise UsageError(f"{name} must be true or false, but is {flag!r}")


def _checked_rate(sampling_rate: Any) -> int:
    try:
        return check_sampling_rate(sampling_rate)
    except AudioError as error:
        raise UsageError(str(error)) from error


def _feature_size(num_mel_bins: Any, chroma: bool, stated: Any) -> int:
    """Values a frame; what is stated must agree."""
    if isinstance(num_mel_bins, bool) or not isinstance(num_mel_bins, int) or num_mel_bins < 2:
        # Of one value a frame Transformers would think that it is a waveform, and pad it as one.
        raise UsageError(f"num_mel_bins must be a whole number of at least 2, but is {num_mel_bins!r}")
    size = num_mel_bins + NUM_CHROMA * chroma
    if stated not in (None, size):
        raise UsageError(
            f"feature_size {stated!r} contradicts num_mel_bins {num_mel_bins} with chroma {chroma}, "
            f"which make {size}; leave feature_size out"
        )
    return size


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
