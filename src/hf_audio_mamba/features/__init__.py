"""Waveform in, model input out: reading, resampling, windows, log-mel, filter bank, chroma. Knows nothing of models."""

from hf_audio_mamba.features.audio_io import AudioInfo, audio_info, load_audio
from hf_audio_mamba.features.chroma import chroma_stft
from hf_audio_mamba.features.kaldi_fbank import KaldiFbank
from hf_audio_mamba.features.log_mel import LogMel
from hf_audio_mamba.features.samples import check_sampling_rate, resample
from hf_audio_mamba.features.spectrogram import SpectrogramSettings
from hf_audio_mamba.features.waveform import as_waveform
from hf_audio_mamba.features.windows import AudioWindow, iter_windows

__all__ = [
    "AudioInfo",
    "AudioWindow",
    "KaldiFbank",
    "LogMel",
    "SpectrogramSettings",
    "as_waveform",
    "audio_info",
    "check_sampling_rate",
    "chroma_stft",
    "iter_windows",
    "load_audio",
    "resample",
]
