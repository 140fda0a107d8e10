"""Mix single-label clips into multi-label ones; the same as `hf-audio-mamba mix`. See `--help`."""

import sys

from hf_audio_mamba.commands.mix import main

if __name__ == "__main__":
    sys.exit(main())
