"""Feature extractor of AudioMamba: waveform to log-mel spectrogram (Lin & Hu, section 4.1; HTS-AT's front-end)."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.features import LogMel
from hf_audio_mamba.features.log_mel import AMIN
from hf_audio_mamba.features.samples import Float32Array
from hf_audio_mamba.models.audio_feature_extraction import AudioFeatureExtractor, checked_feature_size

TIME_ALIGNMENTS = ("pad", "interpolate")
SHORT_CLIPS = ("pad", "repeat")
# Far above any window: a larger number in a settings file is damage, refused before its memory is asked for.
MAX_WINDOW_SAMPLES = 100_000_000
SILENCE_DB = 10 * math.log10(AMIN)
"""Level of a band without energy, -100 dB."""


class AudioMambaFeatureExtractor(AudioFeatureExtractor):
    """Turns waveforms into log-mel spectrograms in dB, time first, padded to a batch.

    Levels are absolute: `10 log10(max(power, 1e-10))` with full scale as reference, from -100 dB (silence) upwards.
    A clip of up to `num_frames` frames gives exactly `num_frames` frames, what the model hears at once; a longer one
    has `1 + samples // hop_length`, which the model takes window by window.

    Args:
        feature_size: Values a frame, `num_mel_bins`. Derived; if given, it must agree.
        sampling_rate: In Hz.
        n_fft: Transform length in samples, even.
        win_length: Length of the Hann window in samples.
        hop_length: Samples from frame to frame.
        num_mel_bins: Mel bands (Slaney).
        f_min: Lower edge of the lowest band in Hz.
        f_max: Upper edge of the highest band in Hz.
        num_frames: Frames of a window of the model.
        clip_seconds: Nominal length of a clip in seconds; its frames must fit into `num_frames`. Only
            `time_align="interpolate"` and `short_clips="repeat"` depend on it.
        time_align: How a clip of 10 s, which has 1001 frames, comes to 1024: `"pad"`, silence after the waveform, as
            the paper and HTS-AT's say; or `"interpolate"`, stretching the frames by bicubic interpolation, as HTS-AT's
            code does, for weights that were trained with it.
        short_clips: What follows a clip shorter than `clip_seconds`: `"pad"`, silence; or `"repeat"`, the clip itself
            as often as it fits, then silence, as HTS-AT does with the 5 s of ESC-50.
        padding_side: `"left"` or `"right"`.
        padding_value: Value of padded frames; models ignore them by the mask.
        return_attention_mask: Return the mask by default.

    Raises:
        UsageError: If a setting is out of range, contradictory or unknown.

    Example:
        >>> extractor = AudioMambaFeatureExtractor()
        >>> inputs = extractor(waveform, sampling_rate=32000, return_tensors="pt")  # 10 s
        >>> inputs["input_values"].shape
        torch.Size([1, 1024, 64])
    """

    def __init__(
        self,
        feature_size: int | None = None,
        sampling_rate: int = 32000,
        n_fft: int = 1024,
        win_length: int = 1024,
        hop_length: int = 320,
        num_mel_bins: int = 64,
        f_min: float = 50.0,
        f_max: float = 14000.0,
        num_frames: int = 1024,
        clip_seconds: float = 10.0,
        time_align: str = "pad",
        short_clips: str = "pad",
        padding_side: str = "right",
        padding_value: float = SILENCE_DB,
        return_attention_mask: bool = True,
        **kwargs: Any,
    ) -> None:
        self.n_fft = n_fft
        self.win_length = win_length
        self.num_mel_bins = num_mel_bins
        self.f_min = f_min
        self.f_max = f_max
        self.num_frames = num_frames
        self.clip_seconds = clip_seconds
        self.time_align = time_align
        self.short_clips = short_clips
        super().__init__(
            feature_size=checked_feature_size(num_mel_bins, feature_size),
            sampling_rate=sampling_rate,
            hop_length=hop_length,
            padding_value=padding_value,
            padding_side=padding_side,
            return_attention_mask=return_attention_mask,
            **kwargs,
        )
        _check_choice("time_align", time_align, TIME_ALIGNMENTS)
        _check_choice("short_clips", short_clips, SHORT_CLIPS)
        self._check_length(self.log_mel)

    @property
    def log_mel(self) -> LogMel:
        """The transform behind the mel bands, in dB."""
        return LogMel(
            self.sampling_rate,
            self.n_fft,
            self.win_length,
            self.hop_length,
            self.num_mel_bins,
            top_db=None,
            f_min=self.f_min,
            f_max=self.f_max,
            reference=1.0,
            pad_mode="reflect",
        )

    @property
    def floor(self) -> float:
        """Feature value of silence."""
        return SILENCE_DB

    @property
    def ceiling(self) -> float:
        """Largest feature value: none, because levels are absolute."""
        return math.inf

    @property
    def units_per_db(self) -> float:
        """Step of the features for one dB."""
        return 1.0

    def _extract(self, waveform: Float32Array) -> Float32Array:
        """Compute `(frames, feature_size)` of one clip."""
        # torch takes neither reversed nor read-only arrays.
        samples = torch.from_numpy(np.require(waveform, requirements=["C", "W"]))
        log_mel = self.log_mel
        features = log_mel(self._aligned(samples))
        if self.time_align == "interpolate" and len(features) < self.num_frames:
            size = (self.num_frames, self.num_mel_bins)
            features = F.interpolate(features[None, None], size=size, mode="bicubic", align_corners=True)[0, 0]
        result: Float32Array = features.numpy()
        return result

    def _aligned(self, samples: torch.Tensor) -> torch.Tensor:
        """A clip `(samples,)` repeated and followed by silence, as the settings say."""
        length = round(self.clip_seconds * self.sampling_rate)
        if self.short_clips == "repeat":
            samples = samples.repeat(max(1, length // len(samples)))
        if self.time_align == "pad":
            length = (self.num_frames - 1) * self.hop_length
        return F.pad(samples, (0, max(0, length - len(samples))))

    def _check_length(self, log_mel: LogMel) -> None:
        most = MAX_WINDOW_SAMPLES // self.hop_length
        if isinstance(self.num_frames, bool) or not isinstance(self.num_frames, int) or not 0 < self.num_frames <= most:
            raise UsageError(f"num_frames must be a whole number from 1 to {most}, but is {self.num_frames!r}")
        seconds = self.clip_seconds
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
            raise UsageError(f"clip_seconds must be a positive number of seconds, but is {seconds!r}")
        frames = log_mel.settings.num_frames(round(seconds * self.sampling_rate))
        if frames > self.num_frames:
            raise UsageError(
                f"clip_seconds {seconds:g} gives {frames} frames, which do not fit into num_frames {self.num_frames}"
            )


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} must be one of {', '.join(map(repr, choices))}, but is {value!r}")


__all__ = ["AudioMambaFeatureExtractor"]
