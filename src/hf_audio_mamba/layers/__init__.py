"""Building blocks that several models share."""

from hf_audio_mamba.layers.bidirectional import BidirectionalMamba, reversal_index, reverse_frames
from hf_audio_mamba.layers.mamba_mixer import MambaMixer

__all__ = ["BidirectionalMamba", "MambaMixer", "reversal_index", "reverse_frames"]
