"""Classify audio files and folders with a trained model; the same as `hf-audio-mamba classify`. See `--help`."""

import sys

from hf_audio_mamba.commands.classify import main

if __name__ == "__main__":
    sys.exit(main())
