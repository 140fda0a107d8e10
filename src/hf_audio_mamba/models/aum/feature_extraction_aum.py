"""Feature extractor of AuM: waveform to Kaldi's log mel filter bank, normalised by the statistics of a data set."""

import math
from typing import Any

import numpy as np
import torch

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.features import KaldiFbank
from hf_audio_mamba.features.kaldi_fbank import SILENCE
from hf_audio_mamba.features.samples import Float32Array
from hf_audio_mamba.models.audio_feature_extraction import AudioFeatureExtractor, check_flags, checked_feature_size

MAX_FRAMES = 1_000_000


class AuMFeatureExtractor(AudioFeatureExtractor):
    """Turns waveforms into normalised log mel filter banks, time first, padded to a batch.

    The clip's mean is removed, then follows the filter bank of `features.KaldiFbank`. A clip has
    `1 + (samples - win_length) // hop_length` frames, at least one. The features are those of the Audio Spectrogram
    Transformer and of AuM's published code; levels are absolute. Padding is zero before normalisation, as there.

    Args:
        feature_size: Values a frame, `num_mel_bins`. Derived; if given, it must agree.
        sampling_rate: In Hz.
        win_length: Samples in a frame. 400 samples are 25 ms at 16 kHz.
        hop_length: Samples from frame to frame. 160 samples are 10 ms at 16 kHz.
        num_mel_bins: Mel bands, from 20 Hz to half the sampling rate.
        max_length: Pad and cut every clip to this many frames, as the published code does, which hears nothing after
            them. By default clips keep their length: the model pads short ones alike, and hears long ones to the end.
        do_normalize: Map features to `(features - mean) / (2 * std)`.
        mean: Of the data set's filter bank. The defaults are AudioSet's; the published code has also -5.0767093 and
            4.4533687 (VGGSound), -3.7614744 and 4.2011642 (VoxCeleb), -6.845978 and 5.5654526 (Speech Commands 2).
        std: Standard deviation of the data set's filter bank.
        padding_side: `"right"` or `"left"`.
        return_attention_mask: Return the mask by default.

    Raises:
        UsageError: If a setting is out of range, contradictory or unknown.

    Example:
        >>> extractor = AuMFeatureExtractor()
        >>> inputs = extractor(waveform, sampling_rate=16000, return_tensors="pt")  # 10 s
        >>> inputs["input_values"].shape
        torch.Size([1, 998, 128])
    """

    def __init__(
        self,
        feature_size: int | None = None,
        sampling_rate: int = 16000,
        win_length: int = 400,
        hop_length: int = 160,
        num_mel_bins: int = 128,
        max_length: int | None = None,
        do_normalize: bool = True,
        mean: float = -4.2677393,
        std: float = 4.5689974,
        padding_side: str = "right",
        return_attention_mask: bool = True,
        **kwargs: Any,
    ) -> None:
        check_flags(do_normalize=do_normalize)
        _check_statistics(mean, std)
        _check_max_length(max_length)
        self.win_length = win_length
        self.num_mel_bins = num_mel_bins
        self.max_length = max_length
        self.do_normalize = do_normalize
        self.mean = mean
        self.std = std
        super().__init__(
            feature_size=checked_feature_size(num_mel_bins, feature_size),
            sampling_rate=sampling_rate,
            hop_length=hop_length,
            padding_value=self._normalized(0.0),
            padding_side=padding_side,
            return_attention_mask=return_attention_mask,
            **kwargs,
        )
        _ = self.fbank  # checks the other settings

    @property
    def fbank(self) -> KaldiFbank:
        """The filter bank, before normalisation."""
        return KaldiFbank(self.sampling_rate, self.win_length, self.hop_length, self.num_mel_bins)

    @property
    def floor(self) -> float:
        """Value of digital silence: no band is below it."""
        return self._normalized(SILENCE)

    @property
    def ceiling(self) -> float:
        """Highest value of a band: there is none, because levels are absolute."""
        return math.inf

    @property
    def units_per_db(self) -> float:
        """Step of the features for one dB: powers are natural logarithms."""
        return math.log(10) / 10 / self._scale

    def to_dict(self) -> dict[str, Any]:
        """All settings. `padding_value` follows from the statistics, and is not one of them."""
        settings: dict[str, Any] = super().to_dict()
        settings.pop("padding_value", None)
        return settings

    @property
    def _scale(self) -> float:
        return 2 * self.std if self.do_normalize else 1.0

    def _normalized(self, value: float) -> float:
        return (value - self.mean) / self._scale if self.do_normalize else value

    def _extract(self, waveform: Float32Array) -> Float32Array:
        """Compute `(frames, feature_size)` of one clip."""
        # In double precision, and a new array: torch takes neither reversed nor read-only ones.
        samples = waveform.astype(np.float64)
        samples -= samples.mean()
        features = self.fbank(torch.from_numpy(samples))
        if self.max_length is not None:
            features = features[: self.max_length]
            features = torch.nn.functional.pad(features, (0, 0, 0, self.max_length - len(features)))
        if self.do_normalize:
            features = (features - self.mean) / self._scale
        result: Float32Array = features.float().numpy()
        return result


def _check_statistics(mean: Any, std: Any) -> None:
    for name, value in (("mean", mean), ("std", std)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e6:
            raise UsageError(f"{name} must be a number from -1e6 to 1e6, but is {value!r}")
    if std < 1e-6:
        raise UsageError(f"std must be at least 1e-6, but is {std!r}")


def _check_max_length(max_length: Any) -> None:
    if max_length is None:
        return
    if isinstance(max_length, bool) or not isinstance(max_length, int) or not 1 <= max_length <= MAX_FRAMES:
        raise UsageError(f"max_length must be a whole number of frames from 1 to {MAX_FRAMES}, but is {max_length!r}")


__all__ = ["AuMFeatureExtractor"]
