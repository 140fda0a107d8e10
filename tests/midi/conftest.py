"""Fixtures of the tests on symbolic music."""

from pathlib import Path

import pytest

from hf_audio_mamba.midi import MidiTokenizer
from tests.midi.midi_bytes import random_piece


@pytest.fixture(scope="session")
def midi_tokenizer() -> MidiTokenizer:
    """REMI with 60 merges learned from generated pieces."""
    return MidiTokenizer.train([random_piece(seed) for seed in range(8)], vocab_size=330)


@pytest.fixture(scope="session")
def sample_files(shared_data: Path) -> list[Path]:
    """Performances of MAESTRO, one a piece."""
    files = sorted((shared_data / "maestro_asap" / "sample").glob("*.mid"))
    if not files:
        pytest.skip("needs the sample of ASAP below ../shared/data/maestro_asap")
    return files
