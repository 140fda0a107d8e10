"""What a training run can be told: the model, the data and the training itself."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from hf_audio_mamba.errors import UsageError
from hf_audio_mamba.training.schedules import EPOCH_SCHEDULES, epoch_schedule
from hf_audio_mamba.training.streaming_arguments import StreamingArguments

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
SINGLE_LABEL_LOSSES = ("cross_entropy", "binary_cross_entropy")


@dataclass
class ModelArguments:
    """Which model to train, and how its configuration and features differ from the stored ones.

    Attributes:
        model_name_or_path: Trained model to fine-tune, a folder or a Hub id.
        model_revision: Branch, tag or commit of that Hub id.
        config_name: Folder or Hub id with `config.json` and `preprocessor_config.json`; weights start random.
        model_type: Used when neither of the two is given: the default configuration of that type.
        config_overrides: Fields of the configuration to change, `name=value,name=value` or a JSON object.
        feature_overrides: Settings of the feature extractor to change, in the same form.
    """

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Trained model to fine-tune: a folder or a Hub id."}
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of --model_name_or_path."})
    config_name: str | None = field(
        default=None,
        metadata={"help": "Train from scratch with this configuration: a folder such as hub_configs/momamba/tiny."},
    )
    model_type: str = field(
        default="momamba",
        metadata={"help": "Without the two options above: train the default configuration of this model type."},
    )
    config_overrides: str | None = field(
        default=None,
        metadata={"help": "Changes to the configuration, for example hidden_size=128,num_hidden_layers=3"},
    )
    feature_overrides: str | None = field(
        default=None, metadata={"help": "Changes to the feature extractor, for example hop_length=882"}
    )

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        if self.model_name_or_path and self.config_name:
            raise UsageError(
                "--model_name_or_path (fine-tune) and --config_name (train from scratch) exclude each other; give one."
            )


@dataclass
class DataArguments(StreamingArguments):
    """Which recordings to train on, how they are split, and how training clips are varied.

    Attributes:
        data_dir: Folder in AudioFolder layout.
        dataset_name: Hub id of a data set, or `synthetic-notes`.
        metadata: CSV with a `file_name`, a label and a `split` or `fold` column; paths are relative to `data_dir`.
        label_column: Column with the label; several, joined by commas, for a regression with several outputs.
        audio_column: Column with the audio of a Hub data set.
        dataset_config_name: Configuration of the Hub data set.
        problem_type: One of `PROBLEM_TYPES`.
        data_license: Licence of the recordings, for the model card.
        label_range: Lowest and highest regression label; the model then sees them scaled to 0 to 1.
        unseen_labels: `error`, `keep` or `drop` for evaluation clips of a class that training does not have.
        duplicates: `error` or `drop` for audio that is in two splits.
        fold: Test fold of a `fold` column, or `all` for cross-validation.
        validation_fold: Fold to validate on: by default the one after the test fold; `none` trains on all the others.
        validation_fraction: Share of the training clips set aside where the data has no validation split.
        train_on_validation: Train on the validation split too, once settings are chosen; the last step is the result.
        num_clips: Number of clips of `synthetic-notes`.
        split_seed: Seed of everything random about the data itself: split and synthetic notes.
        max_seconds: Longer training clips are cut to a random window of this length in seconds.
        cache_dir: Folder for computed features.
        num_feature_workers: Threads that compute features; None for one a core.
        max_corrupt_fraction: Largest share of unreadable clips that is skipped instead of an error, 0 to 1.
        augmentation: Changes to the defaults of `hf_audio_mamba.data.AugmentationConfig`, in the form of
            `ModelArguments.config_overrides`, or `none`.
        transpose_copies: Intervals in semitones; training sees a transposed copy of each clip for each of them.
        transposed_labels: `move` for labels that are MIDI note numbers, `keep` for all others.
    """

    data_dir: str | None = field(
        default=None, metadata={"help": "Folder of audio files with metadata.csv and/or train, validation, test."}
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "Hub id of a data set, or synthetic-notes (rendered on the spot)."}
    )
    metadata: str | None = field(
        default=None, metadata={"help": "CSV with a split or fold column for the files of --data_dir."}
    )
    label_column: str = field(
        default="label", metadata={"help": "Column with the label (several, joined by commas, for regression)."}
    )
    audio_column: str = field(default="audio", metadata={"help": "Audio column of a Hub data set."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    problem_type: str = field(
        default="single_label_classification",
        metadata={"help": "What the labels mean.", "choices": list(PROBLEM_TYPES)},
    )
    data_license: str = field(default="not stated", metadata={"help": "Licence of the recordings, for the model card."})
    label_range: list[float] | None = field(
        default=None, metadata={"help": "Lowest and highest value of regression labels, scaled to 0 to 1."}
    )
    unseen_labels: str = field(
        default="error",
        metadata={
            "help": "Validation and test clips of a class that training lacks: an error, keep or drop them.",
            "choices": ["error", "keep", "drop"],
        },
    )
    duplicates: str = field(
        default="error",
        metadata={
            "help": "Audio that is in two splits: an error, or drop it from the earlier one.",
            "choices": ["error", "drop"],
        },
    )
    fold: str | None = field(
        default=None, metadata={"help": "Fold to test on, or all: cross-validation over every fold."}
    )
    validation_fold: str | None = field(
        default=None,
        metadata={"help": "Fold to validate on (default: the next one); none: train on all folds but the test fold."},
    )
    validation_fraction: float = field(
        default=0.1, metadata={"help": "Share of the training clips to validate on where there is no such split."}
    )
    train_on_validation: bool = field(
        default=False,
        metadata={
            "help": "Train on the validation clips too, once the settings are chosen; the last step is the result."
        },
    )
    num_clips: int = field(default=2000, metadata={"help": "Number of clips of synthetic-notes."})
    split_seed: int = field(default=0, metadata={"help": "Seed of the validation split and of synthetic-notes."})
    max_seconds: float | None = field(
        default=None, metadata={"help": "Cut longer training clips to a random window of this many seconds."}
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Folder for computed features (default: below the Hugging Face cache)."}
    )
    num_feature_workers: int | None = field(
        default=None, metadata={"help": "Threads that compute features (default: one a core)."}
    )
    max_corrupt_fraction: float = field(
        default=0.01, metadata={"help": "Fail when more than this share of the clips cannot be read."}
    )
    augmentation: str | None = field(
        default=None,
        metadata={"help": "Changes to how training clips are varied, for example mixup_alpha=0.2,gain_db=3; or none."},
    )
    transpose_copies: list[int] | None = field(
        default=None,
        metadata={
            "help": "Add copies of the training clips, played faster or slower, transposed by these intervals in "
            "semitones."
        },
    )
    transposed_labels: str = field(
        default="keep",
        metadata={
            "help": "What happens to the labels of such copies: MIDI note numbers move, others are kept.",
            "choices": ["move", "keep"],
        },
    )

    def __post_init__(self) -> None:
        """Refuse contradictions and values out of range."""
        if (self.data_dir is None) == (self.dataset_name is None):
            raise UsageError("Give the data as either --data_dir FOLDER or --dataset_name ID (one of them).")
        if self.metadata is not None and self.data_dir is None:
            raise UsageError("--metadata describes the files below --data_dir; give that folder too.")
        if self.problem_type not in PROBLEM_TYPES:
            raise UsageError(f"--problem_type {self.problem_type!r} is none of {', '.join(PROBLEM_TYPES)}.")
        if self.validation_fold is not None and self.fold is None:
            raise UsageError("--validation_fold needs --fold, the fold to test on.")
        for name in ("validation_fraction", "max_corrupt_fraction"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be at least 0 and below 1.")
        if self.split_seed < 0:
            raise UsageError(f"--split_seed is {self.split_seed}; it must be 0 or more.")
        for name in ("num_clips", "num_feature_workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} is {value}; it must be at least 1.")
        if self.label_range is not None and len(self.label_range) != 2:
            raise UsageError("--label_range takes two numbers, the lowest and the highest label.")
        if self.max_seconds is not None and self.max_seconds <= 0:
            raise UsageError(f"--max_seconds is {self.max_seconds}; it must be positive.")
        self.check_streaming()


@dataclass
class AudioTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with defaults for small audio models, and what this package adds.

    Changed defaults: one evaluation and one checkpoint an epoch, the best one loaded at the end, two kept, cosine
    schedule with a tenth of the steps as warm-up, callbacks (early stopping) restored on resume.

    Attributes:
        resume: Continue from the last complete checkpoint in `output_dir`.
        overwrite_output_dir: Delete an earlier run in `output_dir` first.
        allow_partial_resume: Accept a checkpoint without optimiser, schedule or random state; weights must be there.
        early_stopping_patience: Stop after so many evaluations without a better validation metric.
        average_checkpoints: The result is the mean of so many checkpoints' tensors: the best ones by the validation
            metric, or the last ones where nothing is validated. They are kept besides those of `save_total_limit`.
        single_label_loss: `cross_entropy`, or `binary_cross_entropy` over all classes (Audio Mamba of Erol et al.).
        weight_decay_all: Decay every parameter (HTS-AT), not matrices alone.
        test_time_shifts: Score the test split by the mean over so many circular shifts of each clip.
        floor: Also fit the floor that a sequence model has to beat (see `hf_audio_mamba.training.floor`).
        bootstrap_resamples: Resamples for the 95 % interval of each test metric; 0 leaves it out.
    """

    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for checkpoints, the model and all results; needed."}
    )
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Clips in a batch, on each device."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Clips in a batch of evaluation."})
    num_train_epochs: float = field(default=20.0, metadata={"help": "Passes over the training clips."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Highest learning rate of AdamW."})
    lr_scheduler_type: str = field(
        default="cosine",
        metadata={"help": f"Schedule: cosine, linear, constant, ..., or by epochs {', '.join(EPOCH_SCHEDULES)}."},
    )
    lr_scheduler_kwargs: dict | str | None = field(  # type: ignore[type-arg]  # the parser takes the bare type only
        default=None,
        metadata={"help": "Parameters of the schedule as a JSON object; see hf_audio_mamba.training.schedules."},
    )
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Steps of linear warm-up; below 1: this share of all steps."}
    )
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of matrices (nothing else decays)."})
    weight_decay_all: bool = field(
        default=False, metadata={"help": "Let every parameter decay: biases, norms and state matrices too."}
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "When to validate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to checkpoint: no, steps, epoch or best."})
    logging_strategy: str = field(default="epoch", metadata={"help": "When to log the loss: no, steps or epoch."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep; the best one always."})
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "Take the checkpoint with the best validation metric, not the last."}
    )
    metric_for_best_model: str | None = field(
        default=None,
        metadata={
            "help": "Validation metric that chooses the checkpoint (default: accuracy, mean_average_precision or r2)."
        },
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay false: the collator needs every column."}
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Continue early stopping where the checkpoint left it."}
    )
    train_sampling_strategy: str = field(
        default="random",
        metadata={
            "help": "Order of training clips; class_balanced draws every label equally often, class_queue exactly so, "
            "round by round.",
            "choices": ["random", "sequential", "group_by_length", "class_balanced", "class_queue"],
        },
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Upload the finished run to the Hub, at the end."})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Repository to upload to (default: the name of --output_dir)."}
    )
    hub_private_repo: bool | None = field(
        default=None, metadata={"help": "Make that repository private; one that is public is then refused."}
    )
    resume: bool = field(
        default=False, metadata={"help": "Continue from the last complete checkpoint in --output_dir."}
    )
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Delete an earlier run in --output_dir first."})
    allow_partial_resume: bool = field(
        default=False, metadata={"help": "Resume even where optimiser, schedule or random state is missing."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations without a better validation metric."}
    )
    average_checkpoints: int | None = field(
        default=None,
        metadata={"help": "Take the mean weights of this many best checkpoints (without validation: last ones)."},
    )
    single_label_loss: str = field(
        default="cross_entropy",
        metadata={"help": "Loss of single-label problems.", "choices": list(SINGLE_LABEL_LOSSES)},
    )
    test_time_shifts: int = field(
        default=1, metadata={"help": "Score the test split by the mean over this many circular shifts of each clip."}
    )
    floor: bool = field(
        default=True, metadata={"help": "Also fit majority class and logistic regression on the same features."}
    )
    bootstrap_resamples: int = field(
        default=1000, metadata={"help": "Resamples for the 95 percent intervals of test metrics; 0: none."}
    )

    def __post_init__(self) -> None:
        """Refuse contradictions, then let Transformers check and derive the rest."""
        if not self.output_dir:
            raise UsageError("--output_dir is missing: the folder for checkpoints, model and results.")
        if self.resume and self.overwrite_output_dir:
            raise UsageError("--resume and --overwrite_output_dir exclude each other; give one.")
        if self.resume and self.resume_from_checkpoint:
            raise UsageError("--resume finds the checkpoint itself; give either it or --resume_from_checkpoint.")
        if self.remove_unused_columns:
            raise UsageError("--remove_unused_columns must stay false: the audio collator needs every column.")
        if self.seed < 0:
            raise UsageError(f"--seed is {self.seed}; it must be 0 or more.")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise UsageError(f"--early_stopping_patience is {self.early_stopping_patience}; it must be at least 1.")
        if self.bootstrap_resamples < 0:
            raise UsageError(f"--bootstrap_resamples is {self.bootstrap_resamples}; it must be 0 or more.")
        self._check_own()
        metric = self.metric_for_best_model
        self._derive()
        # Pinned memory serves copies to an accelerator; without one torch warns at every epoch.
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False
        if metric is None:
            # The base class would fall back to the loss; AudioTrainer knows a metric for each problem type.
            self.metric_for_best_model = None

    def _derive(self) -> None:
        """What the base class derives; it knows the schedules of Transformers only."""
        schedule = self.lr_scheduler_type
        if schedule in EPOCH_SCHEDULES:
            self.lr_scheduler_type = "constant"
        try:
            super().__post_init__()
        except (ValueError, TypeError, OverflowError) as error:
            raise UsageError(f"Training arguments: {error}") from error
        if schedule in EPOCH_SCHEDULES:
            self.lr_scheduler_type = schedule
            if isinstance(self.lr_scheduler_kwargs, str):
                raise UsageError(f"--lr_scheduler_kwargs {self.lr_scheduler_kwargs!r} is not a JSON object.")
            epoch_schedule(schedule, self.lr_scheduler_kwargs)

    def _check_own(self) -> None:
        if self.average_checkpoints is not None:
            if self.average_checkpoints < 2:
                raise UsageError(f"--average_checkpoints is {self.average_checkpoints}; it must be at least 2.")
            if self.save_strategy == "no" or self.save_total_limit == 1:
                raise UsageError(
                    "--average_checkpoints needs checkpoints: set --save_strategy, and --save_total_limit above 1."
                )
        if self.single_label_loss not in SINGLE_LABEL_LOSSES:
            raise UsageError(
                f"--single_label_loss {self.single_label_loss!r} is none of {', '.join(SINGLE_LABEL_LOSSES)}."
            )
        if self.label_smoothing_factor and self.single_label_loss != "cross_entropy":
            raise UsageError("--label_smoothing_factor belongs to --single_label_loss cross_entropy.")
        if self.test_time_shifts < 1:
            raise UsageError(f"--test_time_shifts is {self.test_time_shifts}; it must be at least 1 (none).")
