"""State-space models for audio and music in Hugging Face Transformers."""
