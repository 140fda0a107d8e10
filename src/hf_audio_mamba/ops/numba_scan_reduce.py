"""numba kernel that adds up, in one fixed order, what the work items of the scan's backward pass have left behind."""

from hf_audio_mamba.ops.numba_blocks import item_place, sum_leading, unpack_state
from hf_audio_mamba.ops.numba_compile import SOURCE_STAMP, Kernel, kernel_part
from hf_audio_mamba.ops.numba_intrinsics import BYTES, LANES, copy_floats
from hf_audio_mamba.ops.numba_scan_forward import ScanLayout


@kernel_part
def _unpack_parameters(layout: ScanLayout, sums: int, dA: int, dD: int, dbias: int) -> None:
    """(blocks, state + 2, LANES) to (channels, state) and twice (channels,); dD and dbias are 0 where not wanted."""
    state = layout.state
    for part in range(layout.partition.groups * layout.partition.chunks):
        _, _, first, last, block = item_place(layout.partition, part)
        for channel in range(first, last, LANES):
            count = min(LANES, last - channel)
            record = sums + (block + (channel - first) // LANES) * (state + 2) * BYTES
            unpack_state(dA + 4 * channel * state, record, state, count)
            if dD != 0:
                copy_floats(dD + 4 * channel, record + state * BYTES, count)
            if dbias != 0:
                copy_floats(dbias + 4 * channel, record + (state + 1) * BYTES, count)


def _build(stamp: int) -> tuple[Kernel, ...]:
    """The compiled entry points, made in a function so that their cache sees the stamp."""

    @Kernel
    def reduce_parameters(layout: ScanLayout, batch: int, dparameters: int, dA: int, dD: int, dbias: int) -> None:
        if stamp != 0:
            size = layout.partition.blocks * (layout.state + 2)
            sum_leading(dparameters, dparameters, batch, size)
            _unpack_parameters(layout, dparameters, dA, dD, dbias)

    @Kernel
    def reduce_parts(target: int, parts: int, count: int, size: int) -> None:
        if stamp != 0:
            vectors = (size + LANES - 1) // LANES
            sum_leading(parts, parts, count, vectors)
            copy_floats(target, parts, size)

    return reduce_parameters, reduce_parts


reduce_parameters, reduce_parts = _build(SOURCE_STAMP)
