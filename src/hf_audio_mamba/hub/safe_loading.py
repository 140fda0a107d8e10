"""Loading a model folder that nobody vouches for: every fault is a CheckpointError before memory is asked for.

The Auto classes of Transformers initialise what a file lacks, ignore what it has too much, and let errors of the
libraries below through. Here a folder is checked first: its configuration, its label maps, and each tensor of its
weights against what the configuration asks for. Code and pickles in a folder are never run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_audio_mamba.errors import CheckpointError, HubError
from hf_audio_mamba.hub.weight_files import (
    CONFIG_NAME,
    StoredTensor,
    first_not_finite,
    inside_folder,
    read_json,
    stored_tensors,
)
from hf_audio_mamba.models import MODEL_TYPES

if TYPE_CHECKING:
    import torch
    from transformers import FeatureExtractionMixin, PreTrainedConfig, PreTrainedModel

PREPROCESSOR_NAME = "preprocessor_config.json"
# Checked in the file before a configuration is made of it: Transformers builds a list of `num_labels` names, and a
# module a layer, whatever the number.
MAX_SIZES = {"num_labels": 100_000, "num_hidden_layers": 1_024, "hidden_size": 65_536}
# Windows and hops are counted in samples; a larger one would ask for memory only when the first clip comes.
MAX_FEATURE_SETTING = 10_000_000
FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
COUNTER_DTYPES = ("I64",)  # batch normalisation counts its batches
MAX_LISTED = 3


def check_model_folder(path: str | Path) -> None:
    """Check a model folder without loading it.

    For the models of this package every tensor is compared with what `config.json` asks for. For other models of
    Transformers, whose files may name tensors otherwise, the files alone are checked.

    Args:
        path: Folder with `config.json` and weights in safetensors, in one file or in shards with an index.

    Raises:
        CheckpointError: If anything is missing, damaged, contradictory or unsafe; the message names the file and, if
            it is about tensors, the tensors.
    """
    folder = Path(path)
    config = _checked_config(folder)
    tensors = stored_tensors(folder)
    if config.model_type in MODEL_TYPES:
        _check_tensors(folder, config, tensors)
    damaged = first_not_finite({name: t for name, t in tensors.items() if t.dtype in FLOAT_DTYPES})
    if damaged is not None:
        raise CheckpointError(f"{tensors[damaged].file}: {damaged} holds NaN or infinite values; train or get it again")


def load_classifier(
    path_or_repo: str | Path, *, revision: str | None = None, token: str | None = None
) -> tuple["PreTrainedModel", "FeatureExtractionMixin"]:
    """Load an audio classifier and its feature extractor after checking them.

    Args:
        path_or_repo: Model folder, or repository on the Hub, which is downloaded into the usual cache.
        revision: Branch, tag or commit of a repository.
        token: Access token of a repository; None takes the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        The model in evaluation mode and the feature extractor.

    Raises:
        CheckpointError: If the folder is damaged, incomplete, contradictory or unsafe.
        HubError: If there is no such folder, and no such repository can be reached.
    """
    from transformers import AutoModelForAudioClassification

    folder = Path(path_or_repo)
    if not folder.is_dir():
        folder = download_snapshot(str(path_or_repo), revision, token)
    check_model_folder(folder)
    extractor = _load_feature_extractor(folder)
    try:
        model, info = AutoModelForAudioClassification.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    # Behind the checks above this is left to models that are not ours, whose classes may fail in any way.
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be loaded as an audio classifier: {one_line(error)}") from error
    if info["missing_keys"]:
        missing = listed(sorted(info["missing_keys"]))
        raise CheckpointError(f"{folder} lacks {missing}; it was not saved as an audio classifier")
    bands = getattr(model.config, "num_mel_bins", None)
    if model.config.model_type in MODEL_TYPES and extractor.feature_size != bands:
        raise CheckpointError(
            f"{folder / PREPROCESSOR_NAME} makes {extractor.feature_size} values a frame, but {folder / CONFIG_NAME} "
            f"says num_mel_bins {bands}; use the file that was saved with the model"
        )
    return model.eval(), extractor


def _checked_config(folder: Path) -> "PreTrainedConfig":
    from transformers import AutoConfig

    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; name the folder of a saved model")
    path = inside_folder(folder, CONFIG_NAME)
    content = read_json(path)
    for name, largest in MAX_SIZES.items():
        value = content.get(name)
        if isinstance(value, int | float) and value > largest:
            raise CheckpointError(f"{path}: {name} is {value}; at most {largest} is loaded")
    _check_label_maps(path, content)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    # The file may hold anything, and a configuration class may fail at it in any way.
    except Exception as error:
        raise CheckpointError(f"{path} is not a usable configuration: {one_line(error)}") from error


def _check_label_maps(path: Path, content: Mapping[str, Any]) -> None:
    """Check what is lost once a configuration has been made of the file: that both label maps agree."""
    id2label, label2id = content.get("id2label"), content.get("label2id")
    for name, labels in (("id2label", id2label), ("label2id", label2id)):
        if labels is not None and not isinstance(labels, dict):
            raise CheckpointError(f"{path}: {name} must be an object, not {type(labels).__name__}")
    if id2label and label2id and {str(index): name for name, index in label2id.items()} != id2label:
        raise CheckpointError(f"{path}: id2label and label2id do not agree; leave one of them out")


def _check_tensors(folder: Path, config: "PreTrainedConfig", tensors: Mapping[str, StoredTensor]) -> None:
    """Compare stored tensors with those of the model that the configuration describes."""
    layers = config.num_hidden_layers
    # Every layer has tensors of its own, so what is built below is never larger than the file is long.
    if layers > len(tensors):
        raise CheckpointError(
            f"{folder}: {CONFIG_NAME} says {layers} layers, but the weights hold {len(tensors)} tensors; "
            "they belong to another size"
        )
    expected = _expected_tensors(folder, config)
    missing = sorted(expected.keys() - tensors.keys())
    extra = sorted(tensors.keys() - expected.keys())
    common = [name for name in expected if name in tensors]
    shapes = [
        f"{name} {tensors[name].shape} in the weights, {tuple(expected[name].shape)} by {CONFIG_NAME}"
        for name in common
        if tensors[name].shape != tuple(expected[name].shape)
    ]
    dtypes, counters = (
        [
            f"{name} ({tensors[name].dtype})"
            for name in common
            if expected[name].is_floating_point() is floating and tensors[name].dtype not in allowed
        ]
        for floating, allowed in ((True, FLOAT_DTYPES), (False, COUNTER_DTYPES))
    )
    problems = [
        f"{len(found)} {words}: {listed(found)}"
        for words, found in (
            ("missing", missing),
            ("unknown", extra),
            ("of another size", shapes),
            ("not of a floating-point type", dtypes),
            ("not of an integer type", counters),
        )
        if found
    ]
    if problems:
        raise CheckpointError(
            f"the weights in {folder} do not fit its {CONFIG_NAME} ({config.model_type}, {config.num_labels} labels). "
            f"Tensors {'; '.join(problems)}. Use the two files that were saved together."
        )


def _expected_tensors(folder: Path, config: "PreTrainedConfig") -> dict[str, "torch.Tensor"]:
    """The state of the model that was saved, on the meta device: shapes without memory."""
    import torch
    from transformers import AutoModelForAudioClassification

    try:
        with torch.device("meta"):
            model = AutoModelForAudioClassification.from_config(config)
    # Transformers does not check the fields that it shares between all models, so building may fail at them.
    except Exception as error:
        raise CheckpointError(f"{folder / CONFIG_NAME} does not describe a model: {one_line(error)}") from error
    body = model.base_model
    saved_without_head = config.architectures == [type(body).__name__]
    return dict((body if saved_without_head else model).state_dict())


def _load_feature_extractor(folder: Path) -> "FeatureExtractionMixin":
    from transformers import AutoFeatureExtractor

    path = inside_folder(folder, PREPROCESSOR_NAME)
    for name, value in read_json(path).items():
        if isinstance(value, int | float) and value > MAX_FEATURE_SETTING:
            raise CheckpointError(f"{path}: {name} is {value}; at most {MAX_FEATURE_SETTING} is loaded")
    try:
        return AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    # As for the configuration: the file may hold anything.
    except Exception as error:
        raise CheckpointError(f"{path} is not a usable feature extractor: {one_line(error)}") from error


def download_snapshot(repo_id: str, revision: str | None, token: str | None) -> Path:
    """Download a repository's configuration and weights; arguments and errors are those of `load_classifier`."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repo_id,
            revision=revision,
            token=token,
            allow_patterns=["*.json", "*.safetensors"],
            ignore_patterns=["*/*"],
        )
    # Statuses and missing cache entries come as OSError, the network as the HTTP client's own errors, names as
    # ValueError: huggingface_hub has no base class for them.
    except Exception as error:
        raise HubError(
            f"{repo_id!r} is no folder here, and the Hub did not give a repository of that name: {one_line(error)}"
        ) from error
    return Path(folder)


def listed(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def one_line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
