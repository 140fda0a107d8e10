"""The trainer of the training tests serves the fault tests too."""

from tests.training.conftest import make_trainer, quick_and_quiet

__all__ = ["make_trainer", "quick_and_quiet"]
