"""`hf-audio-mamba benchmark`: measure speed against reference implementations, side by side in one process.

Contestants take turns, so that whatever else the machine does meets all of them alike. Times are CPU times of the whole
process (wall times beside them) with one thread unless told otherwise; extra memory is the highest resident size of a
fresh process during a call minus its size before.

numba compiles for the processor at hand. `NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=` in the environment makes it
compile for one without AVX-512 (torch goes by `ATEN_CPU_CAPABILITY=avx2`); each report states the vector width in use.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from hf_audio_mamba.commands import (
    _benchmark_decode,
    _benchmark_features,
    _benchmark_length,
    _benchmark_mixer,
    _benchmark_model,
    _benchmark_scan,
    _benchmark_train,
)
from hf_audio_mamba.commands.main import run_command

_BENCHMARKS = (
    _benchmark_features,
    _benchmark_scan,
    _benchmark_mixer,
    _benchmark_model,
    _benchmark_train,
    _benchmark_decode,
    _benchmark_length,
)


def run(argv: Sequence[str]) -> int:
    """Run one benchmark and print its result.

    Args:
        argv: What to measure, then options; see `--help`.

    Returns:
        Exit status: 0, or 1 if the results of the sides differ.

    Raises:
        MissingExtraError: If the reference implementation is not installed.
    """
    parser = argparse.ArgumentParser(
        prog="hf-audio-mamba benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    benchmarks = parser.add_subparsers(required=True, metavar="WHAT")
    for benchmark in _BENCHMARKS:
        benchmark.add_parser(benchmarks)
    options = parser.parse_args(argv)
    measure: Callable[[argparse.Namespace], int] = options.measure
    return measure(options)


def main() -> int:
    """Entry point of `scripts/benchmark.py`."""
    return run_command(run, prog="benchmark")


if __name__ == "__main__":
    sys.exit(main())
