"""Which block sizes the Triton kernels run with, and into how many segments a scan is cut.

The block size is measured by triton's autotuner at the first call of each kind on a GPU. How fast the kernels are on
one has not been measured: the list of configurations and the segments' constants come from arithmetic.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from hf_audio_mamba.ops.triton_blocks import LANES, TILE, is_interpreted

WARPS_PER_PROCESSOR = 8
"""Warps in flight on a multiprocessor below which the length is cut: two for each of its four schedulers."""
MIN_SEGMENTS, MAX_SEGMENTS = 3, 64
"""Segments cost a second pass over the time steps and the states, so two would gain nothing."""
MIN_SEGMENT_TILES = 4
SMALLEST_ROWS = 16
"""Fewest steps of a convolution's tile."""


def _suitable(configs: list[Any], arguments: dict[str, Any], **options: Any) -> list[Any]:
    """Configurations that give a thread 8 or 16 states, or one or two channels where those have less than 8."""
    states = (arguments | options)["STATES"]
    wanted = {8, 16} if states >= 8 else {states, 2 * states}
    return [c for c in configs if states * c.kwargs["BLOCK"] // (LANES * c.num_warps) in wanted]


def tuned_over_blocks(kernel: Any) -> Any:
    """Give a scan kernel the argument `BLOCK`, measured once for each number of states and scale of work."""
    if is_interpreted():
        return triton.autotune([triton.Config({"BLOCK": LANES}, num_warps=1)], key=[])(kernel)
    shapes = [(block, warps) for block in (32, 64) for warps in (1, 2, 4, 8)]
    return triton.autotune(
        [triton.Config({"BLOCK": block}, num_warps=warps) for block, warps in shapes],
        key=["STATES", "tuning_key"],
        prune_configs_by={"early_config_prune": _suitable},
        do_bench=_time,
    )(kernel)


def tuned_over_tiles(kernel: Any) -> Any:
    """Give a convolution kernel the arguments `ROWS` and `BLOCK`, measured for each width and scale of work."""
    if is_interpreted():
        return triton.autotune([triton.Config({"ROWS": SMALLEST_ROWS, "BLOCK": LANES}, num_warps=1)], key=[])(kernel)
    shapes = [(16, 64, 2), (16, 128, 4), (32, 64, 4), (64, 64, 8)]
    return triton.autotune(
        [triton.Config({"ROWS": rows, "BLOCK": block}, num_warps=warps) for rows, block, warps in shapes],
        key=["WIDTH", "tuning_key"],
        do_bench=_time,
    )(kernel)


def _time(call: Any, quantiles: Any) -> Any:
    return triton.testing.do_bench(call, warmup=5, rep=20, quantiles=quantiles)


def tuning_key(rows: int, length: int, channels: int) -> int:
    """Number that two calls share if what is the best block for one should suit the other.

    Args:
        rows: Samples, or samples times segments.
        length: Steps of each.
        channels: Channels, or those of a group.
    """
    return rows.bit_length() * 10_000 + length.bit_length() * 100 + channels.bit_length()


def choose_segments(programs: int, length: int, device: torch.device) -> int:
    """Into how many parts to cut the length, so that a GPU has enough to do where samples and channels are few.

    A time step waits for the one before it, so a scan of few channels is as slow as one of many. Segments are scanned
    at the same time from a state of 0; what each leaves behind is carried over all of them, and a second pass starts
    each segment with the state that it really has.

    Args:
        programs: Warps that run at the same time if the length is not cut.
        length: Steps of the scan.
        device: Where it runs.
    """
    if device.type != "cuda":
        return 1
    wanted = torch.cuda.get_device_properties(device).multi_processor_count * WARPS_PER_PROCESSOR // programs
    segments = min(wanted, MAX_SEGMENTS, length // (TILE.value * MIN_SEGMENT_TILES))
    return segments if segments >= MIN_SEGMENTS else 1


def count_warps(x: Tensor, groups: int, directions: int) -> int:
    """Warps of a scan over x (batch, length, channels) whose length is not cut."""
    batch, _, channels = x.shape
    return int(batch * groups * triton.cdiv(channels // groups, LANES) * directions)
