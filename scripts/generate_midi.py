"""Continue MIDI with a trained model; the same as `hf-audio-mamba generate`. See `--help`."""

import sys

from hf_audio_mamba.commands.generate import main

if __name__ == "__main__":
    sys.exit(main())
