"""Building blocks that several models share."""

from hf_audio_mamba.layers.bidirectional import BidirectionalMamba
from hf_audio_mamba.layers.clip_windows import ClipWindows, WindowSize, place_windows
from hf_audio_mamba.layers.drop_path import DropPath
from hf_audio_mamba.layers.frame_orders import FrameOrders, frame_orders
from hf_audio_mamba.layers.mamba_mixer import MambaMixer
from hf_audio_mamba.layers.map_transformer import FeedForward, MapTransformer
from hf_audio_mamba.layers.patch_embedding import PATCH_SIZE, downsampling, patch_embedding
from hf_audio_mamba.layers.patch_resizing import resize_patch_kernel, resize_position_table
from hf_audio_mamba.layers.ss2d import SS2D
from hf_audio_mamba.layers.token_layers import apply_linear
from hf_audio_mamba.layers.vision_mamba import BiBiMamba, FoBiMamba

__all__ = [
    "PATCH_SIZE",
    "SS2D",
    "BiBiMamba",
    "BidirectionalMamba",
    "ClipWindows",
    "DropPath",
    "FeedForward",
    "FoBiMamba",
    "FrameOrders",
    "MambaMixer",
    "MapTransformer",
    "WindowSize",
    "apply_linear",
    "downsampling",
    "frame_orders",
    "patch_embedding",
    "place_windows",
    "resize_patch_kernel",
    "resize_position_table",
]
