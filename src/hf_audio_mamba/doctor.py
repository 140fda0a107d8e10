"""`python -m hf_audio_mamba.doctor`: the same as `hf-audio-mamba doctor`."""

import sys

from hf_audio_mamba.commands.doctor import main

if __name__ == "__main__":
    sys.exit(main())
