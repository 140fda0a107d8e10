"""Score models of symbolic music on MIDI files; the same as `hf-audio-mamba evaluate-midi`. See `--help`."""

import sys

from hf_audio_mamba.commands.evaluate_midi import main

if __name__ == "__main__":
    sys.exit(main())
