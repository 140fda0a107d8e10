"""The compiled kernels read and write nothing beside their tensors: pages that may not be touched lie next to each."""

import subprocess
import sys

import pytest

from hf_audio_mamba.ops import available_backends

pytestmark = [
    pytest.mark.skipif("numba" not in available_backends(), reason="numba is not installed"),
    pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect and fork"),
]

# Every tensor, those of the kernels' own making too, ends where a page that may not be touched begins, or begins
# where one ends. Touching it kills the process.
GUARD = """
import ctypes, math, mmap, os, sys
import torch
from hf_audio_mamba import ops
from hf_audio_mamba.ops import numba_blocks, numba_conv, numba_scan, numba_step

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
maps = []
side = sys.argv[1]

def guarded(shape, dtype=torch.float32):
    size = math.prod(shape) * dtype.itemsize
    body = max(1, -(-size // PAGE)) * PAGE
    memory = mmap.mmap(-1, body + 2 * PAGE)
    maps.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for guard in (start, start + PAGE + body):
        assert libc.mprotect(guard, PAGE, 0) == 0
    offset = PAGE if side == "before" else PAGE + body - size
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype, count=math.prod(shape), offset=offset).view(shape)

def placed(tensor):
    return guarded(tensor.shape, tensor.dtype).copy_(tensor)

def empty(*shape):
    return guarded(shape).fill_(math.nan)

def scratch_memory(size):
    memory = guarded((-(-size // 64) * 64,), torch.uint8)
    return memory, memory.data_ptr()

for module in (numba_blocks, numba_conv, numba_scan, numba_step):
    module.empty = empty
    module.scratch_memory = scratch_memory
"""

WORK = """
child = os.fork()
if child == 0:
    ctypes.string_at(guarded((3,)).data_ptr() + (-4 if side == "before" else 12), 1)
    os._exit(0)
assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "a guard can be read"

draw = torch.Generator().manual_seed(0)

def normal(*shape):
    return placed(torch.randn(*shape, generator=draw)).requires_grad_()

def tables(batch, length):
    orders = torch.stack([torch.randperm(length, generator=draw) for _ in range(batch)])
    lengths = torch.tensor([length, max(0, length - 3)])[:batch]
    yield {}
    yield {"order": placed(orders), "lengths": placed(lengths)}
    yield {"order": placed(orders[0])}
    yield {"lengths": placed(lengths)}

for batch, length, channels, state, groups in (
    (2, 17, 19, 3, 1), (1, 1, 1, 1, 1), (2, 33, 34, 16, 2), (1, 16, 16, 5, 1)
):
    x, dt, z = (normal(batch, length, channels) for _ in range(3))
    B, C = (normal(batch, length, groups, state) for _ in range(2))
    D, bias, first = normal(channels), normal(channels), normal(batch, channels, state)
    A = placed(-normal(channels, state).detach().abs()).requires_grad_()
    weight, past = normal(channels, 4), normal(batch, 3, channels)
    for table in tables(batch, length):
        for reverse in (False, True):
            options = {"reverse": reverse, "backend": "numba"} | table
            results = ops.selective_scan(
                x, dt, A, B, C, D, z, bias, initial_state=first, return_last_state=True, **options
            )
            convolved = ops.causal_conv1d_silu(x, weight, bias, initial_state=past, **options)
            torch.autograd.backward([*results, convolved], [placed(y) for y in (*results, convolved)])
            with torch.no_grad():
                out = guarded(x.shape)
                assert ops.selective_scan(x, dt, A, B, C, D, z, bias, out=out, **options).isfinite().all()
    steps = [placed(tensor.detach()[:, 0]) for tensor in (x, dt, B, C, z)]
    state_before = placed(first.detach())
    with torch.no_grad():
        ops.selective_state_update(state_before, *steps[:2], A, *steps[2:4], D, steps[4], bias, backend="numba")
        ops.causal_conv1d_silu_update(placed(past.detach()), steps[0], weight, bias, backend="numba")
print("all within bounds", len(maps) > 100)
"""


def _run(code: str, side: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, side], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("side", ["before", "behind"])
def test_kernels_stay_within_their_tensors(side):
    done = _run(GUARD + WORK, side)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all within bounds True\n"
