"""Training: arguments, a Trainer that resumes strictly, and whole runs.

Everything here needs the extra `train`; names are imported when they are first used.
"""

from typing import TYPE_CHECKING

from hf_audio_mamba._lazy import attach

if TYPE_CHECKING:
    from hf_audio_mamba.training.arguments import AudioTrainingArguments, DataArguments, ModelArguments
    from hf_audio_mamba.training.checkpoints import last_complete_checkpoint
    from hf_audio_mamba.training.report import results_table
    from hf_audio_mamba.training.settings import parse_arguments
    from hf_audio_mamba.training.trainer import AudioTrainer
    from hf_audio_mamba.training.workflow import run

__all__ = [
    "AudioTrainer",
    "AudioTrainingArguments",
    "DataArguments",
    "ModelArguments",
    "last_complete_checkpoint",
    "parse_arguments",
    "results_table",
    "run",
]

__getattr__ = attach(
    __name__,
    dict.fromkeys(("AudioTrainingArguments", "DataArguments", "ModelArguments"), ".arguments")
    | {
        "AudioTrainer": ".trainer",
        "last_complete_checkpoint": ".checkpoints",
        "parse_arguments": ".settings",
        "results_table": ".report",
        "run": ".workflow",
    },
)
