"""Convert published weights into a model folder; the same as `hf-audio-mamba convert`. See `--help`."""

import sys

from hf_audio_mamba.commands.convert import main

if __name__ == "__main__":
    sys.exit(main())
