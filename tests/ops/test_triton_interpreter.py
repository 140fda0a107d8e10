"""Runs the tests of the triton backend in Triton's interpreter, in processes that import triton with it switched on."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("names", "marked"),
    [
        (("scan", "segments"), "not slow"),
        (("conv", "operators"), "not slow"),
        pytest.param(("operators",), "slow", marks=pytest.mark.slow),
    ],
    ids=["scan", "conv and operators", "slow operators"],
)
def test_kernels_in_the_interpreter(names: tuple[str, ...], marked: str) -> None:
    pytest.importorskip("triton", reason="needs triton (Linux)")
    files = [HERE / f"test_triton_{name}.py" for name in names]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-m", marked, *files],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout), done.stdout
    assert "skipped" not in done.stdout
