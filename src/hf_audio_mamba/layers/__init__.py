"""Building blocks that several models share."""

from hf_audio_mamba.layers.bidirectional import BidirectionalMamba
from hf_audio_mamba.layers.frame_orders import FrameOrders, frame_orders
from hf_audio_mamba.layers.mamba_mixer import MambaMixer

__all__ = ["BidirectionalMamba", "FrameOrders", "MambaMixer", "frame_orders"]
