"""`hf-audio-mamba convert`: turn published weights of other projects into a model folder of this package.

Sources: `aum`, checkpoints of AuM's published code; `vim`, ImageNet checkpoints of Vision Mamba, into AuM; `vmamba`,
ImageNet checkpoints of VMamba, into AudioMamba. The file is read by a child process that builds tensors and nothing
else. Sizes, depth, variant and number of labels come from the tensors; the options below are for what they do not tell.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForAudioClassification, PreTrainedModel

import hf_audio_mamba  # noqa: F401  # registers this package's models with the Auto classes
from hf_audio_mamba.commands.main import run_command
from hf_audio_mamba.errors import CheckpointError, OutputError, UsageError
from hf_audio_mamba.hub.converted_card import Conversion, render_converted_card
from hf_audio_mamba.hub.foreign_weights import read_foreign_weights
from hf_audio_mamba.models.audio_config import PROBLEM_TYPES
from hf_audio_mamba.models.foreign_tensors import ConvertedWeights

SOURCES = ("aum", "vim", "vmamba")
# Mean and standard deviation of the filter bank over a data set (AuM's published code).
STATISTICS = {
    "audioset": (-4.2677393, 4.5689974),
    "vggsound": (-5.0767093, 4.4533687),
    "voxceleb": (-3.7614744, 4.2011642),
    "speechcommands": (-6.845978, 5.5654526),
}
_LISTED = 5


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors.

    Attributes:
        loaded: Names in the model that the file filled.
        new: Names in the model that the file does not have; they start random.
        dropped: Names in the file that the model does not have, and why.
    """

    loaded: list[str]
    new: list[str]
    dropped: dict[str, str]


def run(argv: Sequence[str]) -> int:
    """Convert as the options say.

    Args:
        argv: See `--help`.

    Returns:
        0.

    Raises:
        HFAudioMambaError: If the file is unsafe, damaged or of another model, or the folder cannot be written.
    """
    options = _parse(argv)
    target = Path(options.out_dir)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(f"{target} exists and is not empty; name a new folder")
    tensors = read_foreign_weights(options.file, entry=options.entry)
    try:
        converted = _convert(options, tensors)
        model, report = load_converted(converted, partial=options.source == "vmamba" and options.config is not None)
        extractor = _feature_extractor(options, model.config)
    except (CheckpointError, StrictDataclassError) as error:
        raise CheckpointError(f"{options.file}: {error}") from error
    card = render_converted_card(
        Conversion(
            model_name=target.resolve().name,
            model_type=model.config.model_type,
            source=options.source,
            file_name=Path(options.file).name,
            num_labels=model.config.num_labels,
            num_parameters=model.num_parameters(),
            loaded=report.loaded,
            new=report.new,
            dropped=report.dropped,
            notes=converted.notes,
        )
    )
    _save(target, model, extractor, card)
    _print_report(options, model, report, converted.notes)
    return 0


def load_converted(converted: ConvertedWeights, *, partial: bool = False) -> tuple[PreTrainedModel, LoadReport]:
    """Build the model and fill it.

    Args:
        converted: Configuration and tensors.
        partial: Whether blocks may stay new; heads and input norms always may.

    Returns:
        The model in evaluation mode, and what became of the tensors.

    Raises:
        CheckpointError: If a tensor has another shape than the model's, or the body lacks one.
    """
    model: PreTrainedModel = AutoModelForAudioClassification.from_config(converted.config)
    state = model.state_dict()
    dropped = dict(converted.dropped)
    filled: dict[str, torch.Tensor] = {}
    for name, tensor in converted.tensors.items():
        if name not in state:
            dropped[name] = "the model has no such tensor"
        elif state[name].shape != tensor.shape:
            raise CheckpointError(
                f"{name} has shape {tuple(tensor.shape)}, where the model that the other tensors tell has "
                f"{tuple(state[name].shape)}"
            )
        else:
            filled[name] = tensor.to(state[name].dtype)
    new = [name for name in state if name not in filled]
    body = f"{model.base_model_prefix}."
    needed = [name for name in new if name.startswith(body) and not name.startswith(f"{body}bn0.")]
    missing = [name for name in needed if not (partial and ".blocks." in name)]
    if missing:
        raise CheckpointError(f"the file lacks {len(missing)} tensors of the model: {_listed(missing)}")
    model.load_state_dict(filled, strict=False)
    return model.eval(), LoadReport(sorted(filled), new, dropped)


def _convert(options: argparse.Namespace, tensors: dict[str, torch.Tensor]) -> ConvertedWeights:
    fields = _label_fields(options)
    if options.source == "vmamba":
        from hf_audio_mamba.models.audio_mamba.convert_audio_mamba import convert_vmamba

        if options.config is None:
            return convert_vmamba(tensors, **fields)
        target = AutoConfig.from_pretrained(options.config, **fields)
        if target.model_type != "audio_mamba":
            raise UsageError(f"--config {options.config} is of type {target.model_type!r}, not audio_mamba")
        return convert_vmamba(tensors, target=target)
    from hf_audio_mamba.models.aum import AuMFeatureExtractor
    from hf_audio_mamba.models.aum.convert_aum import convert_aum, convert_vim

    mean, std = STATISTICS[options.statistics]
    fields["padding_value"] = AuMFeatureExtractor(mean=mean, std=std).padding_value
    if options.source == "vim":
        return convert_vim(tensors, max_length=options.max_length, **fields)
    if options.cls_position is not None:
        fields["cls_position"] = options.cls_position
    return convert_aum(tensors, **fields)


def _label_fields(options: argparse.Namespace) -> dict[str, Any]:
    fields: dict[str, Any] = {"problem_type": options.problem_type}
    if options.labels is not None:
        try:
            lines = Path(options.labels).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--labels {options.labels} cannot be read: {error}") from error
        fields["id2label"] = dict(enumerate(line.strip() for line in lines if line.strip()))
    elif options.num_labels is not None:
        fields["num_labels"] = options.num_labels
    elif options.source != "aum":
        fields["num_labels"] = 527
    return fields


def _feature_extractor(options: argparse.Namespace, config: Any) -> Any:
    if config.model_type == "audio_mamba":
        from hf_audio_mamba.models.audio_mamba import AudioMambaFeatureExtractor

        return AudioMambaFeatureExtractor(num_mel_bins=config.num_mel_bins, num_frames=config.window_frames)
    from hf_audio_mamba.models.aum import AuMFeatureExtractor

    mean, std = STATISTICS[options.statistics]
    return AuMFeatureExtractor(num_mel_bins=config.num_mel_bins, mean=mean, std=std)


def _save(target: Path, model: PreTrainedModel, extractor: Any, card: str) -> None:
    """Write the folder whole or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise OutputError(f"{target.parent} cannot be written to: {error}") from error
    try:
        model.save_pretrained(scratch)
        extractor.save_pretrained(scratch)
        (scratch / "README.md").write_text(card, encoding="utf-8")
        scratch.chmod(0o755)
        if target.exists():
            target.rmdir()
        scratch.rename(target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _print_report(options: argparse.Namespace, model: PreTrainedModel, report: LoadReport, notes: list[str]) -> None:
    config = model.config
    print(f"{options.out_dir}: {config.model_type}, {model.num_parameters():,} parameters, {config.num_labels} labels")
    print(f"loaded: {len(report.loaded)} tensors")
    print(f"left new: {len(report.new)} tensors" + (f": {_listed(report.new)}" if report.new else ""))
    print(f"dropped: {len(report.dropped)} tensors" + (f": {_listed(list(report.dropped))}" if report.dropped else ""))
    for note in notes:
        print(f"changed: {note}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hf-audio-mamba convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="checkpoint: .pth, .pt, .bin, .ckpt or .safetensors")
    parser.add_argument("out_dir", metavar="OUT_DIR", help="folder to make")
    parser.add_argument("--source", required=True, choices=SOURCES, help="whose checkpoint it is")
    parser.add_argument("--entry", help="key of the weights in the file, for example model_ema")
    parser.add_argument("--labels", metavar="FILE", help="text file with one label a line, in the order of the head")
    parser.add_argument("--num_labels", type=int, help="size of a new head (default 527; aum: that of the file)")
    parser.add_argument("--problem_type", choices=PROBLEM_TYPES, default="multi_label_classification")
    parser.add_argument(
        "--statistics", choices=STATISTICS, default="audioset", help="aum, vim: data set whose mean the features lose"
    )
    parser.add_argument(
        "--cls_position", choices=("front", "middle", "end"), help="aum: where a single class token stands (middle)"
    )
    parser.add_argument("--max_length", type=int, default=1024, help="vim: frames that the model shall hear at once")
    parser.add_argument(
        "--config", metavar="FOLDER", help="vmamba: model to fill, for example hub_configs/audio_mamba/tiny"
    )
    options = parser.parse_args(argv)
    for name, sources in (("cls_position", "aum"), ("config", "vmamba")):
        if getattr(options, name) is not None and options.source != sources:
            raise UsageError(f"--{name} belongs to --source {sources}")
    return options


def main() -> int:
    """Entry point of `scripts/convert_checkpoint.py`."""
    return run_command(run, prog="convert_checkpoint.py")


if __name__ == "__main__":
    sys.exit(main())
