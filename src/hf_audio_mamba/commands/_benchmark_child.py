"""Measurements that need a process of their own: extra memory, and the first call after the imports.

`python -m hf_audio_mamba.commands._benchmark_child memory|first-call CONTESTANT BATCH LENGTH CHANNELS STATE`
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_audio_mamba.commands._benchmark_contestants import Shape, draw_operands, scan_call
from hf_audio_mamba.errors import HFAudioMambaError
from hf_audio_mamba.ops import selective_scan

_STATUS = Path("/proc/self/status")
_WARM_UP_LENGTH = 4


def extra_mebibytes(contestant: str, shape: Shape, threads: int) -> float | None:
    """Memory that a forward scan needs beyond its inputs, its output included.

    In a fresh process: the highest resident size during one call (VmHWM, reset before) minus the size before. A call
    on four frames has compiled kernels and loaded libraries by then.

    Args:
        contestant: A name that `scan_call` knows.
        shape: Sizes of the scan.
        threads: Threads of torch and the kernels.

    Returns:
        Mebibytes; None where the system does not tell (Linux does).
    """
    extra: float | None = _run_child("memory", contestant, shape, threads, {})["extra_mib"]
    return extra


def first_call_seconds(shape: Shape, threads: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Time of a process's first forward scan after its imports, with compilation, self-check and loading from disk.

    Args:
        shape: Sizes of the scan.
        threads: Threads of torch and the kernels.

    Returns:
        (CPU seconds, wall seconds) where nothing has been compiled before, and where another process has done so.
    """
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = (_run_child("first-call", "auto", shape, threads, {"NUMBA_CACHE_DIR": folder}) for _ in range(2))
    return (cold["cpu_s"], cold["wall_s"]), (warm["cpu_s"], warm["wall_s"])


def _run_child(
    measurement: str, contestant: str, shape: Shape, threads: int, environment: dict[str, str]
) -> dict[str, Any]:
    sizes = [str(size) for size in (shape.batch, shape.length, shape.channels, shape.state)]
    done = subprocess.run(
        [sys.executable, "-m", __name__, measurement, contestant, *sizes],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise HFAudioMambaError(f"measuring {measurement} of {contestant} failed: {done.stderr.strip()[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _status_mebibytes(key: str) -> float:
    (kibibytes,) = re.findall(rf"^{key}:\s+(\d+) kB", _STATUS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return int(kibibytes) / 1024


def _measure_memory(contestant: str, shape: Shape) -> dict[str, float | None]:
    warm_up = Shape(shape.batch, min(_WARM_UP_LENGTH, shape.length), shape.channels, shape.state)
    scan_call(contestant, draw_operands(warm_up), train=False)()
    return {"extra_mib": peak_mebibytes_of(scan_call(contestant, draw_operands(shape), train=False))}


def peak_mebibytes_of(call: Callable[[], Any]) -> float | None:
    """How far the resident size of this process rises during a call, in MiB; None where the system does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # sets VmHWM to the present size
    except OSError:
        return None
    before = _status_mebibytes("VmRSS")
    call()
    return _status_mebibytes("VmHWM") - before


def _measure_first_call(shape: Shape) -> dict[str, float]:
    operands = draw_operands(shape)
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.no_grad():
        selective_scan(operands.x, operands.dt, operands.A, *operands.B_and_C, operands.D, operands.z, operands.dt_bias)
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def _main(argv: Sequence[str]) -> None:
    measurement, contestant, *sizes = argv
    shape = Shape(*map(int, sizes))
    print(json.dumps(_measure_memory(contestant, shape) if measurement == "memory" else _measure_first_call(shape)))


if __name__ == "__main__":
    _main(sys.argv[1:])
