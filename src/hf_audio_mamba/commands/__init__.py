"""The verbs of the program `hf-audio-mamba`, one file each."""
