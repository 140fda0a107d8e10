"""Memory that operations need beyond their inputs: outputs and checkpoints, not all states and no copied routes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_audio_mamba.ops import available_backends

pytestmark = [
    pytest.mark.skipif("numba" not in available_backends(), reason="numba is not installed"),
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the process files of Linux"),
]

# A fresh process: what another test has freed would be used again and not be counted.
MEASURE = """
import re, torch
from pathlib import Path
from hf_audio_mamba import ops

def resident(which):
    return int(re.search(which + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

def extra_mebibytes(function):
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM to VmRSS
    before = resident("VmRSS")
    kept = function()
    return resident("VmHWM") - before

def scan(length, channels, state=16):
    x, dt, z, _ = torch.randn(1, length, 4 * channels).chunk(4, -1)
    B, C = torch.randn(1, length, 2 * state).chunk(2, -1)
    operands = [x, dt, -torch.rand(channels, state), B, C, torch.ones(channels), z, torch.ones(channels)]
    return lambda: ops.selective_scan(*operands, backend="numba")

def trained(length, channels, state=16):
    sequences = [torch.randn(1, length, channels).requires_grad_() for _ in range(3)]
    B, C = (torch.randn(1, length, state).requires_grad_() for _ in range(2))
    A, dy = -torch.rand(channels, state), torch.ones(1, length, channels)
    return lambda: ops.selective_scan(*sequences[:2], A, B, C, z=sequences[2], backend="numba").backward(dy)

def routes(height, width, channels, state=1):
    cells = (1, height, width)
    x, dt = torch.randn(*cells, channels), torch.randn(*cells, 4, channels)
    B, A = torch.randn(*cells, 4, state), -torch.rand(4, channels, state)
    return lambda: ops.cross_scan_2d(x, dt, A, B, B, backend="numba")

for work, small, large in (
    (scan, (20, 16), (3001, 512)), (trained, (20, 16), (3001, 512)), (routes, (3, 5, 16), (64, 96, 256))
):
    work(*small)()  # compiles
    print(work.__name__, extra_mebibytes(work(*large)))
"""
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def extra() -> dict[str, float]:
    """MiB that each work needs beyond its inputs."""
    # What is freed goes back to the system at once and is counted when it is taken again.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(64 * 1024)}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}


def test_the_forward_pass_needs_its_output_only(extra):
    output = 4 * 3001 * 512 / MEBIBYTE
    assert output * 0.9 < extra["scan"] < output + 4  # states of all steps would be 16 times the output


def test_training_needs_checkpoints_and_gradients_only(extra):
    sequence = 4 * 3001 * 512 / MEBIBYTE
    checkpoints = sequence * 16 / 16  # 16 states every 16 steps
    assert 4 * sequence < extra["trained"] < 4 * sequence + checkpoints + 8  # output and three gradients


def test_four_routes_need_two_maps(extra):
    cells = 4 * 64 * 96 * 256 / MEBIBYTE
    assert cells * 0.9 < extra["routes"] < 2 * cells + 2  # the sum and one route; copied routes are eight maps
