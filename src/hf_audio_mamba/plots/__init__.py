"""Figures of a run, written as PNG. matplotlib (extra `viz`) is imported when one is drawn."""

from hf_audio_mamba.plots.confusion_matrix import draw_confusion_matrix, save_confusion_matrix
from hf_audio_mamba.plots.learning_curves import draw_learning_curves, save_learning_curves
from hf_audio_mamba.plots.piano_roll import RollNote, draw_piano_roll, save_piano_roll
from hf_audio_mamba.plots.regression_scatter import draw_regression_scatter, save_regression_scatter
from hf_audio_mamba.plots.spectrogram_scores import (
    ScoredSegment,
    draw_spectrogram_scores,
    save_spectrogram_scores,
)

__all__ = [
    "RollNote",
    "ScoredSegment",
    "draw_confusion_matrix",
    "draw_learning_curves",
    "draw_piano_roll",
    "draw_regression_scatter",
    "draw_spectrogram_scores",
    "save_confusion_matrix",
    "save_learning_curves",
    "save_piano_roll",
    "save_regression_scatter",
    "save_spectrogram_scores",
]
