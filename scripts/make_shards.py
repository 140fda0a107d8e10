"""Pack recordings into shards (Parquet or WebDataset); the same as `hf-audio-mamba shards`. See `--help`."""

import sys

from hf_audio_mamba.commands.shards import main

if __name__ == "__main__":
    sys.exit(main())
