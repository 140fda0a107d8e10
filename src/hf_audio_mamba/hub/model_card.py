"""Turns `CardData` into a model card: Hub metadata in front, Markdown from a template behind it."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hf_audio_mamba._optional import require
from hf_audio_mamba.hub.card_data import CardData, MetricValue

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TEMPLATE_PATH = Path(__file__).with_name("model_card_template.md")
COMMON_TAGS = ("audio", "music", "mamba", "state-space-model", "hf_audio_mamba")

# Our metric name -> (name in the card, metric id that the Hub knows).
_METRICS = {
    "accuracy": ("accuracy", "accuracy"),
    "balanced_accuracy": ("balanced accuracy", "balanced_accuracy"),
    "f1_macro": ("macro F1", "f1"),
    "f1_micro": ("micro F1", "f1"),
    "mean_average_precision": ("mean average precision (mAP)", "mean_average_precision"),
    "mean_roc_auc": ("mean ROC-AUC (mAUC)", "roc_auc"),
    "d_prime": ("d'", "d_prime"),
    "r2": ("R²", "r_squared"),
}


def render_model_card(card: CardData) -> str:
    """Write a model card.

    Args:
        card: What the card says.

    Returns:
        The text of `README.md`: YAML metadata with `model-index`, then Markdown.

    Raises:
        MissingExtraError: If jinja2 is not installed.
    """
    from huggingface_hub import ModelCardData

    jinja2 = require("jinja2", extra="train", purpose="writing a model card")
    metadata = ModelCardData(
        license=card.license,
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=[*COMMON_TAGS, *card.tags],
        datasets=[card.data.hub_id] if card.data.hub_id else None,
        base_model=card.base_model if _is_hub_id(card.base_model) else None,
        metrics=sorted({_metric_id(metric) for metrics in card.metrics.values() for metric in metrics}),
        model_name=card.model_name,
        eval_results=_eval_results(card),
    )
    # The card is Markdown, which has no use for HTML escapes; the filters below escape what Markdown needs.
    environment = jinja2.Environment(
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        cell=_cell, cell_code=_cell_code, code=_code, duration=_duration, interval=_interval, metric_title=_metric_title
    )
    template = environment.from_string(TEMPLATE_PATH.read_text(encoding="utf-8"))
    text: str = template.render(
        card=card,
        metadata=metadata.to_yaml(),
        floor_columns=_floor_columns(card),
        model_id=json.dumps(card.repo_id or f"path/to/{card.model_name}"),
        has_intervals=any(metric.low is not None for metrics in card.metrics.values() for metric in metrics),
    )
    return text


def _eval_results(card: CardData) -> list["EvalResult"]:
    from huggingface_hub import EvalResult

    dataset_id = card.data.hub_id or re.sub(r"[^a-z0-9]+", "-", card.data.name.lower()).strip("-")
    return [
        EvalResult(
            task_type="audio-classification",
            task_name=card.task,
            dataset_type=dataset_id,
            dataset_name=card.data.name,
            dataset_split=split,
            metric_type=_metric_id(metric),
            metric_name=_metric_title(metric.name),
            metric_value=round(metric.value, 4),
        )
        for split, metrics in card.metrics.items()
        for metric in metrics
    ]


def _is_hub_id(base_model: str | None) -> bool:
    """Whether a base model is a repository, and not a folder of the machine that trained."""
    return (
        base_model is not None
        and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", base_model) is not None
        and not Path(base_model).exists()
    )


def _floor_columns(card: CardData) -> list[str]:
    """Metrics of the comparison: those that every floor and the model have, in the model's order."""
    if not card.floors:
        return []
    shared = set.intersection(*({metric.name for metric in metrics} for metrics in card.floors.values()))
    return [metric.name for metric in card.metrics[card.floor_split] if metric.name in shared]


def _metric_title(name: str) -> str:
    return _METRICS.get(name, (name.replace("_", " "), name))[0]


def _metric_id(metric: MetricValue) -> str:
    return _METRICS.get(metric.name, (metric.name, metric.name))[1]


def _interval(metric: MetricValue) -> str:
    """`0.912 (0.895 to 0.929)`, or the value alone."""
    if metric.low is None or metric.high is None:
        return f"{metric.value:.3f}"
    return f"{metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f})"


def _duration(seconds: float) -> str:
    """`47 s`, `12 min 5 s` or `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _cell(text: object) -> str:
    """Escape text so that it stays within its table cell and is not taken for HTML."""
    escaped = str(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return " ".join(escaped.split())


def _code(text: object) -> str:
    """Set text as a code span, whatever backticks it holds."""
    flat = " ".join(str(text).split())
    longest = max((len(run) for run in re.findall(r"`+", flat)), default=0)
    fence = "`" * (longest + 1)
    padding = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{padding}{flat}{padding}{fence}"


def _cell_code(text: object) -> str:
    """Set text as a code span in a table, where `|` would end the cell even inside a span."""
    return _code(text).replace("|", "\\|")


def command_line(arguments: Sequence[str]) -> str:
    """Write a command so that it can be pasted into a shell, one option a line.

    Args:
        arguments: Program and arguments, for example `["python", *sys.argv]`.
    """
    lines: list[str] = []
    for argument in arguments:
        if argument.startswith("--") or not lines:
            lines.append(shlex.quote(argument))
        else:
            lines[-1] += " " + shlex.quote(argument)
    return " \\\n  ".join(lines)
