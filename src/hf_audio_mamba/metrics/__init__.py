"""Scores of classifiers, taggers, regressors and models of symbolic music, as functions and `evaluate.Metric` classes.

The classes are part of the package, so nothing is downloaded: `Accuracy().compute(predictions=..., references=...)`.
Everything here needs the extra `train`; names are imported when they are first used.

Conventions: accuracy and micro F1 count clips, so for single-label problems they are equal; macro F1 and balanced
accuracy are unweighted means over the classes that occur in the references; mean average precision and mean ROC-AUC
are unweighted means over the classes for which they are defined, and how many are not is told beside them; R2 is taken
about the mean of the references over the whole set, never averaged over batches, and may be negative. Those of symbolic
music stand in the modules `likelihood`, `grammar`, `histograms` and `note_copies`.
"""

from typing import TYPE_CHECKING

from hf_audio_mamba._lazy import attach

if TYPE_CHECKING:
    from hf_audio_mamba.metrics.decisions import accuracy, balanced_accuracy, f1
    from hf_audio_mamba.metrics.folds import mean_and_deviation
    from hf_audio_mamba.metrics.grammar import grammar_error_rate, grammar_errors
    from hf_audio_mamba.metrics.histograms import (
        histogram_divergence,
        histogram_overlap,
        histogram_scores,
        note_histograms,
    )
    from hf_audio_mamba.metrics.likelihood import PositionBin, likelihood_scores, loss_by_position
    from hf_audio_mamba.metrics.modules import (
        R2,
        Accuracy,
        AcrossFolds,
        BalancedAccuracy,
        DPrime,
        MacroF1,
        MeanAveragePrecision,
        MeanROCAUC,
        MicroF1,
    )
    from hf_audio_mamba.metrics.music import GrammarErrorRate, MusicLikelihood, NoteCopyRate, NoteHistogramSimilarity
    from hf_audio_mamba.metrics.note_copies import copy_rates, copy_scores, longest_copy
    from hf_audio_mamba.metrics.ranking import (
        classes_without_negatives,
        classes_without_positives,
        d_prime,
        mean_average_precision,
        mean_roc_auc,
    )
    from hf_audio_mamba.metrics.regression import r2

_MODULES = {
    ".decisions": ("accuracy", "balanced_accuracy", "f1"),
    ".folds": ("mean_and_deviation",),
    ".grammar": ("grammar_error_rate", "grammar_errors"),
    ".likelihood": ("PositionBin", "likelihood_scores", "loss_by_position"),
    ".modules": (
        "R2",
        "Accuracy",
        "AcrossFolds",
        "BalancedAccuracy",
        "DPrime",
        "MacroF1",
        "MeanAveragePrecision",
        "MeanROCAUC",
        "MicroF1",
    ),
    ".music": ("GrammarErrorRate", "MusicLikelihood", "NoteCopyRate", "NoteHistogramSimilarity"),
    ".note_copies": ("copy_rates", "copy_scores", "longest_copy"),
    ".histograms": ("histogram_divergence", "histogram_overlap", "histogram_scores", "note_histograms"),
    ".ranking": (
        "classes_without_negatives",
        "classes_without_positives",
        "d_prime",
        "mean_average_precision",
        "mean_roc_auc",
    ),
    ".regression": ("r2",),
}

__all__ = [
    "R2",
    "Accuracy",
    "AcrossFolds",
    "BalancedAccuracy",
    "DPrime",
    "GrammarErrorRate",
    "MacroF1",
    "MeanAveragePrecision",
    "MeanROCAUC",
    "MicroF1",
    "MusicLikelihood",
    "NoteCopyRate",
    "NoteHistogramSimilarity",
    "PositionBin",
    "accuracy",
    "balanced_accuracy",
    "classes_without_negatives",
    "classes_without_positives",
    "copy_rates",
    "copy_scores",
    "d_prime",
    "f1",
    "grammar_error_rate",
    "grammar_errors",
    "histogram_divergence",
    "histogram_overlap",
    "histogram_scores",
    "likelihood_scores",
    "longest_copy",
    "loss_by_position",
    "mean_and_deviation",
    "mean_average_precision",
    "mean_roc_auc",
    "note_histograms",
    "r2",
]

__getattr__ = attach(__name__, {name: module for module, names in _MODULES.items() for name in names})
