"""Loading a music model and its tokenizer from a folder that nobody vouches for, checked as audio classifiers are."""

from pathlib import Path
from typing import TYPE_CHECKING

from hf_audio_mamba.errors import CheckpointError, HFAudioMambaError
from hf_audio_mamba.hub.safe_loading import check_model_folder, download_snapshot, listed, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_midi_model(
    path_or_repo: str | Path, *, revision: str | None = None, token: str | None = None
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load a causal language model and its `MidiTokenizer` after checking them.

    Args:
        path_or_repo: Model folder, or repository on the Hub, which is downloaded into the usual cache.
        revision: Branch, tag or commit of a repository.
        token: Access token of a repository; None takes the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        The model in evaluation mode and the tokenizer.

    Raises:
        CheckpointError: If the folder is damaged, incomplete or unsafe, or holds no music model.
        HubError: If there is no such folder, and no such repository can be reached.
        MissingExtraError: If MidiTok or symusic is not installed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(path_or_repo)
    if not folder.is_dir():
        folder = download_snapshot(str(path_or_repo), revision, token)
    check_model_folder(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except HFAudioMambaError:
        raise
    # The files may hold anything, and a tokenizer may fail at them in any way.
    except Exception as error:
        raise CheckpointError(f"{folder} has no usable tokenizer: {one_line(error)}") from error
    if not hasattr(tokenizer, "decode_midi"):
        raise CheckpointError(
            f"{folder} has a {type(tokenizer).__name__}, which knows no music; a model for MIDI is saved with a "
            "MidiTokenizer"
        )
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be loaded as a causal language model: {one_line(error)}") from error
    if info["missing_keys"]:
        missing = listed(sorted(info["missing_keys"]))
        raise CheckpointError(f"{folder} lacks {missing}; it was not saved as a causal language model")
    return model.eval(), tokenizer
