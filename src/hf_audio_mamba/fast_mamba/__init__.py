"""transformers' Mamba models on this package's operations: one call to make a model fast, one to undo it.

transformers 5.23 runs the scan as a loop over time, keeps activations channel-major, leaves adapters on `dt_proj` out
of the computation, and continues a cache with several tokens from an empty state. The mixers here have the same
parameters under the same names and differ in how they compute alone, so a model changes sides by the classes of its
modules: copies, pickles and saved weights need nothing else.
"""

from hf_audio_mamba.fast_mamba.switch import use_fast_mamba, use_stock_mamba

__all__ = ["use_fast_mamba", "use_stock_mamba"]
