"""The model card of converted weights: where they come from, and what became of every tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from huggingface_hub import ModelCardData

_SOURCES = {
    "aum": ("AuM", "Erol et al. 2024, Audio Mamba: Bidirectional State Space Model for Audio Representation Learning"),
    "vim": ("Vision Mamba (ImageNet)", "Zhu et al. 2024, Vision Mamba"),
    "vmamba": ("VMamba (ImageNet)", "Liu et al. 2024, VMamba: Visual State Space Model"),
}


@dataclass(frozen=True)
class Conversion:
    """What the card of converted weights says.

    Attributes:
        model_name: Name of the model.
        model_type: Type of the model that was made.
        source: `aum`, `vim` or `vmamba`.
        file_name: Name of the checkpoint.
        num_labels: Outputs of the head.
        num_parameters: Number of parameters.
        loaded: Tensors of the model that the file filled.
        new: Tensors of the model that start random.
        dropped: Tensors of the file that are not used, and why.
        notes: What was changed in tensors besides their names.
    """

    model_name: str
    model_type: str
    source: str
    file_name: str
    num_labels: int
    num_parameters: int
    loaded: Sequence[str]
    new: Sequence[str]
    dropped: Mapping[str, str]
    notes: Sequence[str]


def render_converted_card(conversion: Conversion) -> str:
    """Write the text of `README.md` for converted weights."""
    title, paper = _SOURCES[conversion.source]
    metadata = ModelCardData(
        license="other",
        license_name="that of the original weights",
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=["audio", "mamba", "state-space-model", "hf_audio_mamba", "converted"],
    )
    head_is_new = any(name.startswith(("head", "classifier")) for name in conversion.new)
    use = (
        "The head is new: fine-tune the model before use."
        if head_is_new
        else 'Use it with `pipeline("audio-classification")` after `import hf_audio_mamba`.'
    )
    lines = [
        "---",
        metadata.to_yaml(),
        "---",
        "",
        f"# {conversion.model_name}",
        "",
        f"Weights of {title}, converted for `{conversion.model_type}` of hf_audio_mamba from `{conversion.file_name}`.",
        f"Source: {paper}. The licence is that of the original weights. {use}",
        "",
        f"- **Parameters:** {conversion.num_parameters:,}",
        f"- **Labels:** {conversion.num_labels}",
        *(f"- **Changed:** {note}" for note in conversion.notes),
        "",
        *_table("Loaded", dict.fromkeys(conversion.loaded, "")),
        *_table("Left new", dict.fromkeys(conversion.new, "")),
        *_table("Dropped", conversion.dropped),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _table(title: str, tensors: Mapping[str, str]) -> list[str]:
    rows = [f"- `{name}`" + (f": {reason}" if reason else "") for name, reason in tensors.items()]
    return [f"## {title}: {len(tensors)} tensors", "", *rows, ""]


__all__ = ["Conversion", "render_converted_card"]
