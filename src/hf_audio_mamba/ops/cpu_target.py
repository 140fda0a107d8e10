"""The processor that numba compiles kernels for: its name, the vector width in use, and where machine code is kept.

`NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES` choose another one, for example a processor without AVX-512:
`NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=`.
"""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_REGISTERS = ((r"\bzmm\d", 512), (r"\bymm\d", 256), (r"\bxmm\d|\bv\d+\.4s\b", 128))


@dataclass(frozen=True)
class CpuTarget:
    """What numba makes of this machine.

    Attributes:
        name: LLVM's name of the processor.
        vector_bits: Width in bits of the registers that kernels use, or None if their assembly shows none we know.
        cache_folder: Where compiled kernels are kept, or None if numba found no place for them.
        cache_writable: Whether a file can be written there now.
    """

    name: str
    vector_bits: int | None
    cache_folder: str | None
    cache_writable: bool


def cpu_target() -> CpuTarget:
    """Ask numba; compiles a probe of one line (a second or less).

    Raises:
        ImportError: If numba cannot be imported.
    """
    from numba.core.registry import cpu_target as numba_target

    from hf_audio_mamba.ops.numba_scan_forward import scan_forward

    _, name, _ = numba_target.target_context.codegen().magic_tuple()
    folder: str | None = getattr(scan_forward.dispatcher.stats, "cache_path", None)
    return CpuTarget(name, vector_bits(_assembly_of_a_probe()), folder, folder is not None and _is_writable(folder))


def vector_bits(assembly: str) -> int | None:
    """Width in bits of the widest vector registers that a text in assembly language names."""
    return next((bits for pattern, bits in _REGISTERS if re.search(pattern, assembly)), None)


def _assembly_of_a_probe() -> str:
    from numba import njit, types

    from hf_audio_mamba.ops import numba_intrinsics as vector

    def square_and_add(source: Any, target: Any) -> None:
        values = vector.load(source)
        vector.store(target, vector.fma(values, values, vector.load(target)))

    signature = types.void(types.int64, types.int64)
    compiled = njit(signature, no_cpython_wrapper=True, no_cfunc_wrapper=True)(square_and_add)
    assembly: str = compiled.inspect_asm(compiled.signatures[0])
    return assembly


def _is_writable(folder: str) -> bool:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
