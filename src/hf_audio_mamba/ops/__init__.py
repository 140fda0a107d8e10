"""Tensor functions: no modules, no configuration. Each has a reference that all its backends are judged by."""

from hf_audio_mamba.ops.backends import available_backends, scan_backend
from hf_audio_mamba.ops.bidirectional_scan import ScanOperands, bidirectional_scan
from hf_audio_mamba.ops.causal_conv import causal_conv1d_silu
from hf_audio_mamba.ops.cross_scan import cross_scan_2d
from hf_audio_mamba.ops.depthwise_conv import depthwise_conv2d_silu
from hf_audio_mamba.ops.selective_scan import selective_scan
from hf_audio_mamba.ops.state_update import causal_conv1d_silu_update, selective_state_update

__all__ = [
    "ScanOperands",
    "available_backends",
    "bidirectional_scan",
    "causal_conv1d_silu",
    "causal_conv1d_silu_update",
    "cross_scan_2d",
    "depthwise_conv2d_silu",
    "scan_backend",
    "selective_scan",
    "selective_state_update",
]
