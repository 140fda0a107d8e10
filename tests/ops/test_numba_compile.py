"""Compilation and its cache, missing numba, and processes that fork."""

import errno
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from numba import njit
from numba.core.caching import CacheImpl, FunctionCache, IndexDataCacheFile
from torch.utils.data import DataLoader, Dataset

from hf_audio_mamba.ops import numba_compile, numba_conv_kernels, numba_cpu
from hf_audio_mamba.ops.numba_compile import SOURCE_STAMP, Kernel
from hf_audio_mamba.ops.numba_intrinsics import store_scalar
from hf_audio_mamba.ops.numba_scan_backward import scan_backward
from hf_audio_mamba.ops.numba_scan_forward import scan_forward
from tests.ops.numba_cases import run_scan, scan_case, with_gradients

# Convolves, and prints the result and how often the kernel came from the disk.
CONVOLVE = """
import torch
from hf_audio_mamba.ops import numba_cpu
from hf_audio_mamba.ops.numba_conv_kernels import conv_forward
y = numba_cpu.causal_conv1d_silu(torch.ones(1, 3, 8), torch.ones(8, 2), None, reverse=False, initial_state=None)
print(torch.allclose(y[0, :, 0], torch.nn.functional.silu(torch.tensor([1.0, 2.0, 2.0]))))
print("hits", sum(conv_forward.dispatcher.stats.cache_hits.values()))
"""


# Trains on both kernels, and prints how often each of them came from the disk and how often it did not.
TRAIN = """
import sys, torch
from hf_audio_mamba.ops import numba_cpu
from hf_audio_mamba.ops.numba_compile import Kernel
x = torch.ones(1, 3, 8, requires_grad=True)
y = numba_cpu.causal_conv1d_silu(x, torch.ones(8, 2), None, reverse=False, initial_state=None)
options = {"dt_softplus": True, "reverse": False, "initial_state": None}
y, _ = numba_cpu.selective_scan(y, y, -torch.ones(8, 4), y[..., None, :4], y[..., None, 4:], None, y, None, **options)
y.sum().backward()
kernels = {
    name: value.dispatcher.stats
    for module in list(sys.modules.values())
    for name, value in vars(module).items()
    if isinstance(value, Kernel) and value.dispatcher.signatures
}
for name in sorted(kernels):
    print(name, sum(kernels[name].cache_hits.values()), sum(kernels[name].cache_misses.values()))
"""
TRAINED_KERNELS = (
    *("conv_backward", "conv_forward", "conv_pack", "conv_reduce"),
    *("pack_parameters", "reduce_parameters", "reduce_parts", "scan_backward", "scan_forward"),
)


@pytest.fixture(autouse=True)
def _nothing_warned_of(monkeypatch):
    monkeypatch.setattr(numba_compile, "_warned", False)


def _run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    process = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    return process


def test_second_process_finds_the_first_ones_kernels(tmp_path: Path):
    first = _run(CONVOLVE, NUMBA_CACHE_DIR=str(tmp_path))
    assert first.stdout == "True\nhits 0\n"
    second = _run(CONVOLVE, NUMBA_CACHE_DIR=str(tmp_path))
    assert second.stdout == "True\nhits 1\n"


@pytest.mark.slow
def test_second_process_compiles_no_kernel_at_all(tmp_path: Path):
    for hits, misses in ((0, 1), (1, 0)):
        found = _run(TRAIN, NUMBA_CACHE_DIR=str(tmp_path)).stdout.splitlines()
        assert found == [f"{name} {hits} {misses}" for name in TRAINED_KERNELS]


def test_an_unwritable_cache_costs_one_warning(tmp_path: Path):
    (tmp_path / "file").touch()
    process = _run(
        CONVOLVE,
        NUMBA_CACHE_DIR=str(tmp_path / "file" / "in a file"),  # permissions would not stop root
        NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator",
    )
    assert process.stdout == "True\nhits 0\n"
    assert len(re.findall("is compiled in memory", process.stderr)) == 1


def _set_to_seven(address: int) -> None:
    store_scalar(address, np.float32(7))


def _works(kernel: Kernel) -> bool:
    target = np.zeros(2, np.float32)
    kernel(target.ctypes.data)
    return target.tolist() == [7, 0]


def test_damaged_cache_is_not_used_and_does_no_harm(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    assert _works(Kernel(_set_to_seven))
    again = Kernel(_set_to_seven)
    assert _works(again)
    assert sum(again.dispatcher.stats.cache_hits.values()) == 1
    for path in tmp_path.rglob("*.nb[ic]"):
        path.write_bytes(path.read_bytes()[:40])
    assert not caplog.records
    assert _works(Kernel(_set_to_seven))
    assert "_set_to_seven is compiled in memory" in caplog.text


def test_without_a_place_for_the_cache_kernels_live_in_memory(monkeypatch, caplog):
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    kernel = Kernel(_set_to_seven)
    assert "_set_to_seven is compiled in memory" in caplog.text
    assert "NUMBA_CACHE_DIR names a folder" in caplog.text
    assert _works(kernel)
    assert _works(Kernel(_set_to_seven))
    assert len(caplog.records) == 1


def test_a_full_disk_does_no_harm(tmp_path: Path, monkeypatch, caplog):
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(IndexDataCacheFile, "_save_data", no_space)
    assert _works(Kernel(_set_to_seven))
    assert "No space left" in caplog.text


def test_changed_sources_change_the_stamp_that_caches_depend_on():
    def key(stamp: int) -> object:
        forward = numba_conv_kernels._build(stamp)[1].dispatcher
        return FunctionCache(forward.py_func)._index_key((), forward.targetctx.codegen())

    assert key(SOURCE_STAMP) == key(SOURCE_STAMP)
    assert key(SOURCE_STAMP) != key(SOURCE_STAMP + 1)


# Every operation, against the reference; prints the largest difference, all warnings, and why numba is not used.
WITHOUT_NUMBA = """
import sys, warnings
sys.modules["numba"] = None
import torch
from hf_audio_mamba import ops
from hf_audio_mamba.ops import numba_cpu

def results(backend):
    draw = torch.Generator().manual_seed(0)
    x, dt = torch.randn(2, 2, 12, 8, generator=draw)
    A, B = -torch.ones(8, 4), x[..., :4]
    choice = {"backend": backend}
    both = ops.ScanOperands(x, dt, A, B, B)
    cells = [tensor.unflatten(1, (3, 4)) for tensor in (x, dt, B)]
    routes = [tensor[:, :, :, None].expand(-1, -1, -1, 4, -1) for tensor in cells]
    yield ops.selective_scan(x, dt, A, B, B, **choice)
    yield ops.causal_conv1d_silu(x, A, **choice)
    yield ops.bidirectional_scan(both, both, **choice)[1][0]
    yield ops.cross_scan_2d(cells[0], routes[1], A.expand(4, -1, -1), routes[2], routes[2], **choice)
    yield ops.selective_state_update(torch.ones(2, 8, 4), x[:, 0], dt[:, 0], A, B[:, 0], B[:, 0], **choice)
    yield ops.causal_conv1d_silu_update(torch.ones(2, 3, 8), x[:, 0], A, **choice)

with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    found = list(results(None))
pairs = zip(found, results("reference"), strict=True)
print("difference", max((actual - expected).abs().max().item() for actual, expected in pairs))
print("warnings", [str(warning.message)[:50] for warning in seen])
print(ops.available_backends(), numba_cpu.unavailable_reason())
"""


def test_without_numba_everything_works_after_one_warning():
    difference, warned, reason = _run(WITHOUT_NUMBA).stdout.splitlines()
    assert float(difference.split()[1]) < 1e-5
    assert warned == "warnings [\"The fast scan backend 'numba' is not used: numba d\"]"
    assert reason.startswith("['torch', 'reference'] numba does not work here")
    assert "pip install" in reason


REASON = """
from hf_audio_mamba.ops import numba_cpu
print(numba_cpu.unavailable_reason())
"""


def test_numba_that_compiles_nothing_is_a_reason():
    assert "NUMBA_DISABLE_JIT" in _run(REASON, NUMBA_DISABLE_JIT="1").stdout


def test_here_it_is_available():
    assert numba_cpu.unavailable_reason() is None


def _library_calls(assembly: str) -> set[str]:
    """Names of C functions whose address is taken or that are called; numba calls most through a register."""
    names = re.findall(r"(?:\$|\bcallq?\s+|\bjmp\s+)([A-Za-z_]\w*)", assembly)
    return {name for name in names if not name.startswith(("_ZN", "Py", "_Py", "NRT_", "numba_"))}


def _assembly(function: Callable, signature: object) -> str:
    fresh = njit(function)  # code from the cache has no text
    fresh.compile(signature)
    return fresh.inspect_asm(fresh.signatures[0])


def test_calls_of_c_functions_are_seen():
    def exponential(values: np.ndarray) -> None:
        for index in range(values.size):
            values[index] = math.exp(values[index])

    assert any("exp" in name for name in _library_calls(_assembly(exponential, "(float32[::1],)")))


@pytest.mark.parametrize(
    "kernel", [scan_forward, pytest.param(scan_backward, marks=pytest.mark.slow)], ids=["forward", "backward"]
)
def test_machine_code_is_vector_code(kernel):
    with_gradients(scan_case(1, 20, 16, 4), run_scan, numba_cpu.selective_scan)
    (signature,) = kernel.dispatcher.signatures
    assembly = _assembly(kernel.dispatcher.py_func, signature)
    if not re.search(r"\bymm|\bzmm", assembly):
        pytest.skip("no x86 vector registers here")
    assert len(re.findall(r"vfn?m(?:add|sub)\d+ps\s.*[yz]mm", assembly)) > 20
    assert not [name for name in _library_calls(assembly) if re.search("exp|log|pow", name)]


class _Scans(Dataset):
    """Each item is a scan's output, computed by the worker."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        return run_scan(scan_case(1, 30, 64, 8, seed=index))[0][0]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_data_loader_workers_can_scan(method):
    if method not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    expected = torch.stack([_Scans()[index] for index in range(6)])
    loader = DataLoader(_Scans(), batch_size=3, num_workers=2, multiprocessing_context=method)
    assert torch.equal(torch.cat(list(loader)), expected)


FORK = """
import os, torch
torch.set_num_threads(3)
from hf_audio_mamba.ops.numba_scan import compute_scan, compute_scan_gradients
draw = torch.Generator().manual_seed(0)
x = torch.rand(2, 200, 128, generator=draw)
B = torch.rand(2, 200, 1, 8, generator=draw)
operands = (x, x, -torch.ones(128, 8), B, B, None, x, None, None)

def results():
    y, last_state, states = compute_scan(*operands, True, False, True)
    gradients = compute_scan_gradients(y, last_state, *operands, states, True, False)
    return b"".join(bytes(tensor.numpy()) for tensor in (y, last_state, *gradients))

expected = results()
child = os.fork()
if child == 0:  # torch's own threads do not live here; the kernels start theirs anew
    os._exit(0 if results() == expected else 1)
print("child", os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_scans_with_threads_of_its_own():
    assert "child 0" in _run(FORK).stdout
