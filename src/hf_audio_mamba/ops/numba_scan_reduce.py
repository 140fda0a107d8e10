"""numba kernel that adds up, in one fixed order, what the work items of the scan's backward pass have left behind."""

from numba import njit

from hf_audio_mamba.ops.numba_blocks import ZERO, item_place
from hf_audio_mamba.ops.numba_compile import SOURCE_STAMP, Kernel
from hf_audio_mamba.ops.numba_intrinsics import BYTES, LANES, load_scalar, store_scalar
from hf_audio_mamba.ops.numba_scan_backward import ScanGradients
from hf_audio_mamba.ops.numba_scan_forward import ScanLayout


@njit
def _sum_parts(layout: ScanLayout, batch: int, parts: int, target: int, reverse: int) -> None:
    """(batch, groups, chunks, length, state) in scan order to (batch, length, groups, state) in time order."""
    length, state, groups = layout.length, layout.state, layout.partition.groups
    for row in range(batch):
        for group in range(groups):
            source = parts + 4 * (row * groups + group) * layout.partition.chunks * length * state
            for step in range(length):
                time = length - 1 - step if reverse != 0 else step
                for n in range(state):
                    total = ZERO
                    for chunk in range(layout.partition.chunks):
                        total += load_scalar(source + 4 * ((chunk * length + step) * state + n))
                    store_scalar(target + 4 * (((row * length + time) * groups + group) * state + n), total)


@njit
def _sum_parameters(layout: ScanLayout, batch: int, dparameters: int, dA: int, dD: int, dbias: int) -> None:
    """Sum over the batch and undo the packing; dD and dbias are 0 where not wanted."""
    state = layout.state
    blocks = layout.partition.blocks
    for part in range(layout.partition.groups * layout.partition.chunks):
        _, _, first, last, block = item_place(layout.partition, part)
        for channel in range(first, last):
            lane = channel - first
            place = dparameters + (block + lane // LANES) * (state + 2) * BYTES + 4 * (lane % LANES)
            for n in range(state + 2):
                total = ZERO
                for row in range(batch):
                    total += load_scalar(place + (row * blocks * (state + 2) + n) * BYTES)
                if n < state:
                    store_scalar(dA + 4 * (channel * state + n), total)
                elif n == state and dD != 0:
                    store_scalar(dD + 4 * channel, total)
                elif n > state and dbias != 0:
                    store_scalar(dbias + 4 * channel, total)


def _build(stamp: int) -> Kernel:
    """The compiled entry point, made in a function so that its cache sees the stamp."""

    @Kernel
    def scan_reduce(
        layout: ScanLayout,
        batch: int,
        gradients: ScanGradients,
        dA: int,
        dD: int,
        dbias: int,
        dB: int,
        dC: int,
        reverse: int,
    ) -> None:
        if stamp != 0:
            _sum_parameters(layout, batch, gradients.dparameters, dA, dD, dbias)
            _sum_parts(layout, batch, gradients.dB_parts, dB, reverse)
            _sum_parts(layout, batch, gradients.dC_parts, dC, reverse)

    return scan_reduce


scan_reduce = _build(SOURCE_STAMP)
