"""The choice of a backend while `torch.compile` or `torch.export` traces a model: made once, kept in the graph."""

import torch

from hf_audio_mamba.ops.backends import choose_now

choose_while_tracing = torch.compiler.assume_constant_result(choose_now)  # type: ignore[no-untyped-call]  # torch's
