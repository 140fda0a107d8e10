"""Feature extractor of MoMamba: waveform to log-mel spectrogram, on request with chroma (MoMamba, section 4.1)."""

from typing import Any

import numpy as np
import torch

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.features import LogMel, chroma_stft
from hf_audio_mamba.features.chroma import NUM_CHROMA
from hf_audio_mamba.features.samples import Float32Array
from hf_audio_mamba.models.audio_feature_extraction import AudioFeatureExtractor, check_flags, checked_feature_size


class MoMambaFeatureExtractor(AudioFeatureExtractor):
    """Turns waveforms into log-mel spectrograms, time first, padded to a batch.

    A clip has `1 + samples // hop_length` frames. One that is shorter than a window is padded with silence to one
    window; silence gives a flat spectrogram of 0 dB.

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
        check_flags(chroma=chroma, do_normalize=do_normalize)
        if top_db is None:
            raise UsageError("top_db must be a number of dB, which the normalisation and the floor need")
        self.n_fft = n_fft
        self.win_length = win_length
        self.num_mel_bins = num_mel_bins
        self.chroma = chroma
        self.do_normalize = do_normalize
        self.top_db = top_db
        super().__init__(
            feature_size=checked_feature_size(num_mel_bins, feature_size, further_rows=NUM_CHROMA * chroma),
            sampling_rate=sampling_rate,
            hop_length=hop_length,
            padding_value=padding_value,
            padding_side=padding_side,
            return_attention_mask=return_attention_mask,
            **kwargs,
        )
        _ = self.log_mel  # checks the other settings

    @property
    def log_mel(self) -> LogMel:
        """The transform behind the mel bands, in dB."""
        return LogMel(self.sampling_rate, self.n_fft, self.win_length, self.hop_length, self.num_mel_bins, self.top_db)

    @property
    def floor(self) -> float:
        """Feature value of silence in the mel bands: `top_db` below the loudest cell."""
        return -1.0 if self.do_normalize else -float(self.top_db)

    @property
    def ceiling(self) -> float:
        """Feature value of the clip's loudest cell, 0 dB."""
        return 1.0 if self.do_normalize else 0.0

    @property
    def units_per_db(self) -> float:
        """Step of the mel bands' features for one dB."""
        return 2 / float(self.top_db) if self.do_normalize else 1.0

    @property
    def chroma_floor(self) -> float:
        """Value of silence in the chroma rows."""
        return -1.0 if self.do_normalize else 0.0

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


__all__ = ["MoMambaFeatureExtractor"]
