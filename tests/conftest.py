"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Timings never fail a test, and a failure must come back.
settings.register_profile("hf_audio_mamba", deadline=None, derandomize=True)
settings.load_profile("hf_audio_mamba")

# Before torch is imported anywhere: tests check behaviour, not speed, and run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real recordings; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real data folder ../shared/data, which is not part of the project")
    return SHARED_DATA
