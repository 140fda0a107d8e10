"""`hf-audio-mamba doctor` run as a user runs it, and its rules on devices that are not here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_audio_mamba.commands import doctor
from hf_audio_mamba.ops import backends, cpu_target

MODULE = "import runpy; runpy.run_module('hf_audio_mamba.doctor', run_name='__main__')"
NO_NUMBA = "import sys; sys.modules['numba'] = None; "
NO_CACHE = "from numba.core.caching import CacheImpl; CacheImpl._locator_classes = []; "
# Spares the seconds that compiling takes, where the kernels' results are not the matter.
NO_CHECK = "from hf_audio_mamba.ops import backends; backends._incorrect = lambda *_: None; "


def examined(prepare: str = "", *options: str, **environment: str) -> tuple[int, str]:
    """Exit status and output of a doctor in a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_AUDIO_MAMBA")}
    done = subprocess.run(
        [sys.executable, "-c", prepare + MODULE, *options],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def facts(*arguments: str, **environment: str) -> tuple[int, dict[str, Any]]:
    prepare, *options = arguments or ("",)
    status, text = examined(prepare, *options, "--json", **environment)
    return status, json.loads(text)


only_the_cpu = pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="the status is that of all devices"
)


@only_the_cpu
def test_here_the_cpu_has_its_fastest_backend() -> None:
    status, found = facts()
    assert status == 0
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"].keys() == {"python", "hf_audio_mamba", *doctor.PACKAGES}
    assert found["environment"] == {"HF_AUDIO_MAMBA_SCAN": None}
    assert found["cpu"]["vector_bits"] in (128, 256, 512)
    assert Path(found["cpu"]["cache_folder"]).is_dir()
    assert found["cpu"]["cache_writable"]
    (cpu,) = found["devices"]
    assert (cpu["device"], cpu["backend"], cpu["fastest"]) == ("cpu", "numba", True)
    assert cpu["problems"]["torch"] is None
    assert "CUDA devices only" in cpu["problems"]["mamba_ssm"]


def test_a_slower_backend_on_request_is_said_and_counts_as_a_problem() -> None:
    status, text = examined(NO_CHECK, HF_AUDIO_MAMBA_SCAN="torch", NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES="")
    assert status == 1
    assert "HF_AUDIO_MAMBA_SCAN: torch" in text
    assert "torch, asked for by HF_AUDIO_MAMBA_SCAN\n  not numba, which is faster: it was not asked for" in text
    assert "\n  on request: reference" in text
    assert "numba compiles for: haswell, 256-bit vectors" in text


def test_a_backend_that_cannot_run_is_said() -> None:
    status, text = examined(NO_CHECK, HF_AUDIO_MAMBA_SCAN="mamba_ssm")
    assert status == 1
    assert "NOTHING RUNS, HF_AUDIO_MAMBA_SCAN asks for 'mamba_ssm': computes on CUDA devices only" in text


def test_an_unknown_backend_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "cuda")
    report = doctor.examine("mps")
    assert (report.backend, report.fastest) == (None, False)
    assert report.reason == "HF_AUDIO_MAMBA_SCAN asks for 'cuda': there is no such backend"


def test_without_numba_torch_is_used_and_the_reason_is_given() -> None:
    status, text = examined(NO_NUMBA)
    assert status == 1
    assert "torch, chosen by 'auto'\n  not numba, which is faster: numba does not work here" in text
    assert "numba compiles nothing here" in text


@only_the_cpu
def test_without_a_place_for_compiled_kernels_it_says_so_and_the_backend_stays() -> None:
    status, found = facts(NO_CACHE + NO_CHECK)
    assert (status, found["devices"][0]["backend"]) == (0, "numba")
    assert (found["cpu"]["cache_folder"], found["cpu"]["cache_writable"]) == (None, False)


def test_a_folder_that_cannot_be_written_to_is_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert cpu_target._is_writable(str(tmp_path))
    assert not cpu_target._is_writable(str(file / "folder"))
    cpu = {"name": "x", "vector_bits": None, "cache_folder": str(file), "cache_writable": False}
    assert any("NOT writable" in line for line in doctor._describe_cpu(cpu))


@pytest.mark.parametrize(
    ("assembly", "bits"),
    [
        ("vmovups (%rdi), %zmm0\nvmovaps %xmm1, %xmm2", 512),
        ("vfmadd213ps 32(%rsi), %ymm1, %ymm1", 256),
        ("mulps %xmm0, %xmm0", 128),
        ("fmla v0.4s, v1.4s, v1.4s", 128),
        ("fmadd s0, s1, s2, s3", None),
    ],
)
def test_vector_width_is_read_from_assembly(assembly: str, bits: int | None) -> None:
    assert cpu_target.vector_bits(assembly) == bits


def test_a_device_with_a_usable_backend_of_each_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(backends, "_unusable", lambda name: "broken" if name == "torch" else None)
    report = doctor.examine("mps", "Apple GPU")
    assert (report.backend, report.fastest) == ("reference", False)
    assert doctor._describe_device(report) == [
        "mps (Apple GPU): reference, chosen by 'auto'",
        "  not torch, which is faster: broken",
    ]
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "torch")
    assert doctor.examine("mps").backend is None
    monkeypatch.setattr(backends, "_unusable", lambda name: None)
    assert doctor.examine("mps").fastest
    # On a CUDA device only on request: whatever else is there comes first.
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE)
    assert doctor.examine("cuda:0").problems["mamba_ssm"] is None


def test_kernels_that_compute_wrongly_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(backends.self_check, "problem", lambda operation, *_: f"wrong {operation}")
    report = doctor.examine("cpu")
    assert (report.backend, report.fastest, report.problems["numba"]) == ("torch", False, "wrong scan")
