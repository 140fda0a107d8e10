"""Measure speed side by side with others: `python scripts/benchmark.py features|scan|mixer|model|train|decode`."""

import sys

from hf_audio_mamba.commands.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
