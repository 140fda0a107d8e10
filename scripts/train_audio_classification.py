"""Train an audio classifier or regressor; the same as `hf-audio-mamba train`. See `--help`."""

import sys

from hf_audio_mamba.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
