"""Building blocks that several models share."""

from hf_audio_mamba.layers.bidirectional import BidirectionalMamba
from hf_audio_mamba.layers.frame_orders import FrameOrders, frame_orders
from hf_audio_mamba.layers.mamba_mixer import MambaMixer
from hf_audio_mamba.layers.patch_resizing import resize_patch_kernel, resize_position_table
from hf_audio_mamba.layers.vision_mamba import BiBiMamba, FoBiMamba

__all__ = [
    "BiBiMamba",
    "BidirectionalMamba",
    "FoBiMamba",
    "FrameOrders",
    "MambaMixer",
    "frame_orders",
    "resize_patch_kernel",
    "resize_position_table",
]
