"""Measure speed against reference implementations: `python scripts/benchmark.py features`."""

import sys

from hf_audio_mamba.commands.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
