"""`hf-audio-mamba doctor`: which backend runs the scan on each device of this machine, and why not a faster one.

Exit status 0 if every device gets the fastest backend made for it, 1 if one does not (also if `HF_AUDIO_MAMBA_SCAN`
asks for a slower one). A first run compiles kernels for some seconds, since a backend counts only once it has computed
right results here.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

import hf_audio_mamba
from hf_audio_mamba.commands.main import run_command
from hf_audio_mamba.ops import backends, cpu_target, numba_cpu

PACKAGES = ("torch", "transformers", "numba", "triton", "mamba_ssm")
DTYPE = torch.float32


@dataclass(frozen=True)
class DeviceReport:
    """The scan on one device.

    Attributes:
        device: For example `"cuda:0"`.
        description: Name of the hardware, where torch knows it.
        backend: What runs there, or None if what was asked for cannot.
        fastest: Whether it is the fastest backend made for such a device.
        reason: Who chose it, or why nothing can run.
        problems: Every other backend with why it does not run there; None if it would on request.
    """

    device: str
    description: str
    backend: str | None
    fastest: bool
    reason: str
    problems: dict[str, str | None]


def run(argv: Sequence[str]) -> int:
    """Print versions, the processor and the choice of backends.

    Args:
        argv: `--json` for one JSON object.

    Returns:
        0 if every device gets the fastest backend made for it, else 1.
    """
    parser = argparse.ArgumentParser(
        prog="hf-audio-mamba doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    options = parser.parse_args(argv)
    devices = [examine(device, description) for device, description in _devices()]
    facts = {
        "versions": _versions(),
        "threads": torch.get_num_threads(),
        "environment": {backends.ENVIRONMENT_VARIABLE: os.environ.get(backends.ENVIRONMENT_VARIABLE)},
        "cpu": _cpu(),
        "devices": [asdict(device) for device in devices],
    }
    print(json.dumps(facts) if options.json else _describe(facts, devices))
    return 0 if all(device.fastest for device in devices) else 1


def examine(device: str, description: str = "") -> DeviceReport:
    """Find which backend runs on a device and why the others do not.

    Args:
        device: For example `"cpu"` or `"cuda:0"`.
        description: Name of the hardware.
    """
    problems = backends.problems(device, DTYPE)
    made_for_it = [name for name in problems if backends.serves(name, device, DTYPE)]
    requested = os.environ.get(backends.ENVIRONMENT_VARIABLE) or backends.AUTO
    backend: str | None
    if requested == backends.AUTO:
        backend = next(name for name in made_for_it if problems[name] is None)
        reason = "chosen by 'auto'"
    elif problems.get(requested, "unknown") is None:
        backend, reason = requested, f"asked for by {backends.ENVIRONMENT_VARIABLE}"
    else:
        backend = None
        problem = problems.get(requested, "there is no such backend")
        reason = f"{backends.ENVIRONMENT_VARIABLE} asks for {requested!r}: {problem}"
    others = {name: problem for name, problem in problems.items() if name != backend}
    return DeviceReport(device, description, backend, backend == made_for_it[0], reason, others)


def _devices() -> list[tuple[str, str]]:
    devices = [("cpu", platform.processor() or platform.machine())]
    devices += [(f"cuda:{index}", torch.cuda.get_device_name(index)) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append(("mps", "Apple GPU"))
    return devices


def _versions() -> dict[str, str | None]:
    """Of what is installed; whether it works is the backends' matter."""
    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        "hf_audio_mamba": hf_audio_mamba.__version__,
    }
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _cpu() -> dict[str, Any] | None:
    """What numba compiles for, or None where it cannot be used."""
    return None if numba_cpu.unavailable_reason() else asdict(cpu_target.cpu_target())


def _describe(facts: dict[str, Any], devices: Sequence[DeviceReport]) -> str:
    versions = [f"{name} {version or 'not installed'}" for name, version in facts["versions"].items()]
    requested = facts["environment"][backends.ENVIRONMENT_VARIABLE]
    lines = [
        "versions: " + ", ".join(versions),
        f"threads: {facts['threads']}",
        f"{backends.ENVIRONMENT_VARIABLE}: {requested or 'not set'}",
        *_describe_cpu(facts["cpu"]),
    ]
    for device in devices:
        lines += _describe_device(device)
    return "\n".join(lines)


def _describe_device(device: DeviceReport) -> list[str]:
    """Faster backends come with what stands against them, slower ones with whether they could be asked for."""
    title = f"{device.device} ({device.description})" if device.description else device.device
    lines = [f"{title}: {device.backend or 'NOTHING RUNS'}, {device.reason}"]
    preferred = backends.preferred(torch.device(device.device).type)
    names = [name for name in preferred if backends.serves(name, device.device, DTYPE)]
    faster = names[: names.index(device.backend)] if device.backend is not None else []
    lines += [f"  not {name}, which is faster: {device.problems[name] or 'it was not asked for'}" for name in faster]
    slower = {name: device.problems[name] for name in names if name not in (*faster, device.backend)}
    lines += [
        f"  {'on request:' if problem is None else 'not'} {name}" + (f": {problem}" if problem else "")
        for name, problem in slower.items()
    ]
    return lines


def _describe_cpu(cpu: dict[str, Any] | None) -> list[str]:
    if cpu is None:
        return ["numba compiles nothing here"]
    width = f"{cpu['vector_bits']}-bit vectors" if cpu["vector_bits"] else "vectors of unknown width"
    if cpu["cache_folder"] is None:
        cache = "no folder can be written to, so every process compiles anew; NUMBA_CACHE_DIR names one"
    elif cpu["cache_writable"]:
        cache = f"{cpu['cache_folder']} (writable)"
    else:
        cache = f"{cpu['cache_folder']} (NOT writable: what is not there already is compiled by every process)"
    return [f"numba compiles for: {cpu['name']}, {width}", f"compiled kernels: {cache}"]


def main() -> int:
    """Entry point of `python -m hf_audio_mamba.doctor`."""
    return run_command(run, prog="doctor")


if __name__ == "__main__":
    sys.exit(main())
