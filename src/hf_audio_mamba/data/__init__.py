"""Audio data sets, their features, and the batches that a Trainer takes."""

from hf_audio_mamba.data.audio_dataset import PROBLEM_TYPES, AudioDataset, Clip
from hf_audio_mamba.data.audio_folder import load_audio_folder
from hf_audio_mamba.data.augmentation_config import AugmentationConfig
from hf_audio_mamba.data.clip_stream import ClipStream, ShardSource
from hf_audio_mamba.data.feature_cache import FeatureTable, compute_features
from hf_audio_mamba.data.feature_dataset import AudioCollator, FeatureDataset
from hf_audio_mamba.data.hub_dataset import load_hub_dataset
from hf_audio_mamba.data.samplers import ClassBalancedSampler, ClassQueueSampler, LengthGroupedSampler, ShuffledSampler
from hf_audio_mamba.data.shard_writer import write_shards
from hf_audio_mamba.data.shards import LabelTable, find_shards, read_label_table, total_clips
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
    "ClipStream",
    "FeatureDataset",
    "FeatureTable",
    "LabelTable",
    "LengthGroupedSampler",
    "ShardSource",
    "ShuffledSampler",
    "compute_features",
    "find_shards",
    "load_audio_folder",
    "load_hub_dataset",
    "read_label_table",
    "synthetic_notes",
    "total_clips",
    "transposed_copies",
    "write_shards",
]
