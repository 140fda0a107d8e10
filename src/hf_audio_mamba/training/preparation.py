"""From arguments to a data set, a model that fits it, and features for both."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HOME
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.trainer_utils import IntervalStrategy

import hf_audio_mamba  # noqa: F401  # registers this package's models with the Auto classes
from hf_audio_mamba.data import (
    AudioDataset,
    AugmentationConfig,
    Clip,
    FeatureDataset,
    FeatureTable,
    compute_features,
    load_audio_folder,
    load_hub_dataset,
    synthetic_notes,
    transposed_copies,
)
from hf_audio_mamba.errors import CheckpointError, UsageError
from hf_audio_mamba.hub import check_model_folder
from hf_audio_mamba.training.arguments import AudioTrainingArguments, DataArguments, ModelArguments
from hf_audio_mamba.training.assignments import check_names, nearest, parse_assignments
from hf_audio_mamba.training.averaging import time_shifts

logger = logging.getLogger(__name__)

SYNTHETIC_NOTES = "synthetic-notes"


def load_dataset(args: DataArguments) -> AudioDataset:
    """Load the data set that the arguments describe.

    Raises:
        DataError: If it cannot be used.
        UsageError: If options contradict it.
    """
    dataset = _load_splits(args)
    if not args.train_on_validation:
        return dataset
    splits = dict(dataset.splits)
    if "validation" not in splits:
        raise UsageError(f"--train_on_validation: {dataset.name} has no validation split; leave the option out.")
    splits["train"] = splits["train"] + splits.pop("validation")
    return replace(dataset, splits=splits, info={**dataset.info, "training": "on the validation split too"})


def _load_splits(args: DataArguments) -> AudioDataset:
    label_range = None if args.label_range is None else (args.label_range[0], args.label_range[1])
    if args.data_dir is not None:
        return load_audio_folder(
            args.data_dir,
            metadata=args.metadata,
            label_column=args.label_column,
            problem_type=args.problem_type,
            fold=args.fold,
            validation_fold=args.validation_fold,
            validation_fraction=args.validation_fraction,
            label_range=label_range,
            unseen_labels=args.unseen_labels,
            duplicates=args.duplicates,
            seed=args.split_seed,
        )
    if args.dataset_name == SYNTHETIC_NOTES:
        if args.fold is not None:
            raise UsageError("--fold needs data with a fold column, which synthetic-notes does not have.")
        return synthetic_notes(num_clips=args.num_clips, seed=args.split_seed)
    return load_hub_dataset(
        str(args.dataset_name),
        config_name=args.dataset_config_name,
        audio_column=args.audio_column,
        label_column=args.label_column,
        problem_type=args.problem_type,
        fold=args.fold,
        validation_fold=args.validation_fold,
        validation_fraction=args.validation_fraction,
        label_range=label_range,
        unseen_labels=args.unseen_labels,
        seed=args.split_seed,
    )


def build_model(args: ModelArguments, dataset: AudioDataset) -> tuple[PreTrainedModel, Any]:
    """Build or load the model and its feature extractor, with the labels of the data set.

    A fine-tuned model gets a new head where its own has another size; everything else must fit.

    Args:
        args: Which model.
        dataset: Gives label names and problem type.

    Returns:
        Model and feature extractor.

    Raises:
        UsageError: If an override does not exist or has an unusable value.
        CheckpointError: If the model cannot be loaded or its weights do not fit its configuration.
    """
    source = args.model_name_or_path or args.config_name
    revision = args.model_revision if args.model_name_or_path else "main"
    config = _load_config(args, source, revision)
    extractor = _load_feature_extractor(args, source, revision, config)
    overrides = parse_assignments(args.config_overrides, option="--config_overrides")
    _apply_overrides(config, overrides)
    _match_bands(config, extractor, overrides)
    if hasattr(config, "padding_value") and "padding_value" not in overrides:
        # It follows from the statistics that features are normalised with.
        config.padding_value = extractor.padding_value
    config.id2label = dict(enumerate(dataset.label_names))
    config.label2id = {name: index for index, name in enumerate(dataset.label_names)}
    config.problem_type = dataset.problem_type
    try:
        config.validate()
        if args.model_name_or_path:
            return _load_weights(args.model_name_or_path, revision, config), extractor
        return AutoModelForAudioClassification.from_config(config), extractor
    except StrictDataclassError as error:
        raise UsageError(f"The configuration is not valid: {error}") from error


def _load_config(args: ModelArguments, source: str | None, revision: str) -> PreTrainedConfig:
    try:
        if source is None:
            return AutoConfig.for_model(args.model_type)
        return AutoConfig.from_pretrained(source, revision=revision)
    except (OSError, ValueError, StrictDataclassError) as error:
        what = f"--model_type {args.model_type}" if source is None else source
        raise CheckpointError(f"{what}: no usable configuration of an audio model: {error}") from error


def _load_feature_extractor(args: ModelArguments, source: str | None, revision: str, config: PreTrainedConfig) -> Any:
    try:
        if source is None:
            extractor = FEATURE_EXTRACTOR_MAPPING[type(config)]()
        else:
            extractor = AutoFeatureExtractor.from_pretrained(source, revision=revision)
        overrides = parse_assignments(args.feature_overrides, option="--feature_overrides")
        if not overrides:
            return extractor
        settings = extractor.to_dict()
        check_names(overrides, settings, option="--feature_overrides")
        settings.pop("feature_extractor_type", None)
        # Sizes that follow from the others are derived again unless they are given.
        settings.pop("feature_size", None)
        return type(extractor)(**{**settings, **overrides})
    except UsageError:
        raise
    except KeyError as error:
        raise UsageError(f"--model_type {args.model_type} has no feature extractor of its own.") from error
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{source or args.model_type}: no usable feature extractor: {error}") from error


def _apply_overrides(config: PreTrainedConfig, overrides: Mapping[str, Any]) -> None:
    known = {item.name for item in fields(config)} | set(config.attribute_map)
    for name, value in overrides.items():
        if name in ("id2label", "label2id", "num_labels", "problem_type"):
            raise UsageError(f"--config_overrides: {name} follows from the data; leave it out.")
        if name not in known:
            raise UsageError(f"--config_overrides: there is no {name!r}{nearest(name, known)}")
        try:
            setattr(config, name, value)
        except (StrictDataclassError, ValueError, TypeError) as error:
            raise UsageError(f"--config_overrides: {name}={value!r}: {error}") from error


def _match_bands(config: PreTrainedConfig, extractor: Any, overrides: Mapping[str, Any]) -> None:
    """Give the model as many input bands as the features have."""
    feature_size = getattr(extractor, "feature_size", 1)
    bands = feature_size if feature_size > 1 else getattr(extractor, "num_mel_bins", None)
    if bands is None or not hasattr(config, "num_mel_bins") or config.num_mel_bins == bands:
        return
    if "num_mel_bins" in overrides:
        raise UsageError(
            f"--config_overrides num_mel_bins={config.num_mel_bins}, but the features have {bands} bands; "
            "change the features (--feature_overrides) and the model follows."
        )
    config.num_mel_bins = bands


def _load_weights(source: str, revision: str, config: PreTrainedConfig) -> PreTrainedModel:
    if Path(source).is_dir():
        check_model_folder(source)
    try:
        model, info = AutoModelForAudioClassification.from_pretrained(
            source, revision=revision, config=config, ignore_mismatched_sizes=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{source}: the weights cannot be loaded: {error}") from error
    base = f"{model.base_model_prefix}."
    damaged = [str(key) for what in ("missing_keys", "mismatched_keys") for key in info[what]]
    body = [key for key in damaged if key.lstrip("('").startswith(base)]
    if body:
        raise CheckpointError(
            f"{source} does not hold this model: {len(body)} tensors are missing or have another size "
            f"({', '.join(sorted(body)[:3])} ...). Leave out --config_overrides, or train from scratch with "
            "--config_name."
        )
    return model


@dataclass(frozen=True)
class SplitFeatures:
    """Features of one split and the labels of the clips that could be read, in the same order.

    Attributes:
        table: Features.
        labels: Encoded labels.
        names: Clip names.
    """

    table: FeatureTable
    labels: list[Any]
    names: list[str]


def compute_split_features(
    dataset: AudioDataset, feature_extractor: Any, args: DataArguments, *, progress: bool
) -> dict[str, SplitFeatures]:
    """Features of every split, from the cache where they are there."""
    return {
        split: _features_of(dataset, clips, feature_extractor, args, progress=progress)
        for split, clips in dataset.splits.items()
    }


def add_transposed_copies(
    split: SplitFeatures, dataset: AudioDataset, feature_extractor: Any, args: DataArguments, *, progress: bool
) -> SplitFeatures:
    """The training split and behind it, with `--transpose_copies`, its copies at other pitches."""
    if not args.transpose_copies:
        return split
    rate = int(feature_extractor.sampling_rate)
    move = args.transposed_labels == "move"
    clips = transposed_copies(dataset, args.transpose_copies, sampling_rate=rate, move_labels=move)
    if not clips:
        raise UsageError("--transpose_copies: no copy has a label of the data; choose smaller intervals.")
    copies = _features_of(dataset, clips, feature_extractor, args, progress=progress)
    return SplitFeatures(
        split.table.joined(copies.table), [*split.labels, *copies.labels], [*split.names, *copies.names]
    )


def _features_of(
    dataset: AudioDataset, clips: Sequence[Clip], feature_extractor: Any, args: DataArguments, *, progress: bool
) -> SplitFeatures:
    table = compute_features(
        clips,
        feature_extractor,
        cache_dir=args.cache_dir or str(Path(HF_HOME) / "hf_audio_mamba" / "features"),
        num_workers=args.num_feature_workers,
        max_corrupt_fraction=args.max_corrupt_fraction,
        progress=progress,
    )
    kept = [clips[index] for index in table.kept]
    return SplitFeatures(table, [dataset.encode(clip) for clip in kept], [clip.name for clip in kept])


def augmentation_config(args: DataArguments) -> AugmentationConfig:
    """The augmentation that `--augmentation` asks for: defaults, none at all, or defaults with changes."""
    if args.augmentation is None:
        return AugmentationConfig()
    if args.augmentation.strip().lower() == "none":
        return AugmentationConfig.off()
    values = parse_assignments(args.augmentation, option="--augmentation")
    check_names(values, {item.name for item in fields(AugmentationConfig)}, option="--augmentation")
    try:
        return AugmentationConfig(**values)
    except UsageError as error:
        raise UsageError(f"--augmentation: {error}") from error


def training_dataset(
    split: SplitFeatures, args: DataArguments, feature_extractor: Any, *, num_labels: int, seed: int
) -> FeatureDataset:
    """The training split with augmentation and, with `--max_seconds`, random windows."""
    return FeatureDataset(
        split.table,
        split.labels,
        augmentation=augmentation_config(args),
        seed=seed,
        max_frames=max_training_frames(args, feature_extractor),
        num_labels=num_labels,
    )


def max_training_frames(args: DataArguments, feature_extractor: Any) -> int | None:
    """Frames that longer training clips are cut to, by `--max_seconds`; None for no limit.

    Raises:
        UsageError: If the feature extractor does not tell how long a frame is.
    """
    if args.max_seconds is None:
        return None
    rate: float | None = getattr(feature_extractor, "frames_per_second", None)
    if rate is None:
        raise UsageError("--max_seconds: this feature extractor does not tell its frames per second.")
    return max(1, round(args.max_seconds * rate))


def fit_to_splits(args: AudioTrainingArguments, dataset: AudioDataset) -> None:
    """Without a validation split nothing can choose a checkpoint: the last one is the result.

    Raises:
        UsageError: If early stopping was asked for.
    """
    if "validation" in dataset.splits:
        return
    if args.early_stopping_patience is not None:
        raise UsageError(
            f"--early_stopping_patience needs a validation split, which {dataset.name} does not have; "
            "set --validation_fraction above 0."
        )
    result = "the model of the last step" if args.average_checkpoints is None else "the mean of the last checkpoints"
    logger.warning("%s has no validation split; %s is the result.", dataset.name, result)
    args.eval_strategy = IntervalStrategy.NO
    args.load_best_model_at_end = False
    args.metric_for_best_model = None


def shifts_of_test_clips(args: AudioTrainingArguments, dataset: AudioDataset, feature_extractor: Any) -> list[int]:
    """Circular shifts of test clips in frames that `--test_time_shifts` asks for.

    Raises:
        UsageError: If there is no test split, or the feature extractor does not tell how long a frame is.
    """
    if args.test_time_shifts == 1:
        return [0]
    if "test" not in dataset.splits:
        raise UsageError(f"--test_time_shifts: {dataset.name} has no test split; leave it out.")
    rate = getattr(feature_extractor, "frames_per_second", None)
    if rate is None:
        raise UsageError("--test_time_shifts: this feature extractor does not tell its frames per second.")
    return time_shifts(args.test_time_shifts, rate)
