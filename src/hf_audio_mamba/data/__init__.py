"""Audio data sets, their features, and the batches that a Trainer takes."""

from hf_audio_mamba.data.audio_dataset import PROBLEM_TYPES, AudioDataset, Clip
from hf_audio_mamba.data.audio_folder import load_audio_folder
from hf_audio_mamba.data.augmentation import AugmentationConfig
from hf_audio_mamba.data.feature_cache import FeatureTable, compute_features
from hf_audio_mamba.data.feature_dataset import AudioCollator, FeatureDataset

__all__ = [
    "PROBLEM_TYPES",
    "AudioCollator",
    "AudioDataset",
    "AugmentationConfig",
    "Clip",
    "FeatureDataset",
    "FeatureTable",
    "compute_features",
    "load_audio_folder",
]
