"""Audio data sets, their features, and the batches that a Trainer takes."""

from hf_audio_mamba.data.audio_dataset import PROBLEM_TYPES, AudioDataset, Clip
from hf_audio_mamba.data.audio_folder import load_audio_folder
from hf_audio_mamba.data.augmentation_config import AugmentationConfig
from hf_audio_mamba.data.feature_cache import FeatureTable, compute_features
from hf_audio_mamba.data.feature_dataset import AudioCollator, FeatureDataset
from hf_audio_mamba.data.hub_dataset import load_hub_dataset
from hf_audio_mamba.data.samplers import ClassBalancedSampler, ClassQueueSampler, LengthGroupedSampler, ShuffledSampler
from hf_audio_mamba.data.synthetic_notes import synthetic_notes
from hf_audio_mamba.data.transposition import transposed_copies

__all__ = [
    "PROBLEM_TYPES",
    "AudioCollator",
    "AudioDataset",
    "AugmentationConfig",
    "ClassBalancedSampler",
    "ClassQueueSampler",
    "Clip",
    "FeatureDataset",
    "FeatureTable",
    "LengthGroupedSampler",
    "ShuffledSampler",
    "compute_features",
    "load_audio_folder",
    "load_hub_dataset",
    "synthetic_notes",
    "transposed_copies",
]
