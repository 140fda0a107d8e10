"""Compilation and its cache, missing numba, and processes that fork."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from numba import njit
from numba.core.caching import CacheImpl, FunctionCache, IndexDataCacheFile
from torch.utils.data import DataLoader, Dataset

from hf_audio_mamba.ops import numba_conv_kernels, numba_cpu
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


REASON = """
import sys
{prepare}
from hf_audio_mamba.ops import numba_cpu
print(numba_cpu.unavailable_reason())
"""


def test_missing_numba_is_a_reason_and_not_an_error():
    process = _run(REASON.format(prepare="sys.modules['numba'] = None"))
    assert "numba does not work here" in process.stdout
    assert "pip install" in process.stdout


def test_numba_that_compiles_nothing_is_a_reason():
    assert "NUMBA_DISABLE_JIT" in _run(REASON.format(prepare=""), NUMBA_DISABLE_JIT="1").stdout


def test_here_it_is_available():
    assert numba_cpu.unavailable_reason() is None


@pytest.mark.parametrize(
    "kernel", [scan_forward, pytest.param(scan_backward, marks=pytest.mark.slow)], ids=["forward", "backward"]
)
def test_machine_code_is_vector_code(kernel):
    with_gradients(scan_case(1, 20, 16, 4), run_scan, numba_cpu.selective_scan)
    fresh = njit(kernel.dispatcher.py_func)  # code from the cache has no text
    (signature,) = kernel.dispatcher.signatures
    fresh.compile(signature)
    assembly = fresh.inspect_asm(signature)
    if not re.search(r"\bymm|\bzmm", assembly):
        pytest.skip("no x86 vector registers here")
    assert len(re.findall(r"vfn?m(?:add|sub)\d+ps\s.*[yz]mm", assembly)) > 20
    assert not re.search(r"\bcallq?\s+\S*exp", assembly)


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
from hf_audio_mamba.ops.numba_scan import scan
draw = torch.Generator().manual_seed(0)
x = torch.rand(2, 200, 128, generator=draw)
B = torch.rand(2, 200, 1, 8, generator=draw)
operands = (x, x, -torch.ones(128, 8), B, B, None, x, None, None, True, False, False)
expected = bytes(scan(*operands)[0].numpy())
child = os.fork()
if child == 0:  # torch's own threads do not live here; the kernels start theirs anew
    os._exit(0 if bytes(scan(*operands)[0].numpy()) == expected else 1)
print("child", os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_scans_with_threads_of_its_own():
    assert "child 0" in _run(FORK).stdout
