"""Symbolic music: MIDI files as tokens for `MambaForCausalLM`, and music out of it. Needs the extra `midi`."""

from hf_audio_mamba._lazy import attach

__all__: list[str] = []

__getattr__ = attach(__name__, {})
