"""What a model card says, as plain data: filled by a training run, turned into Markdown by `render_model_card`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hf_audio_mamba.errors import UsageError


@dataclass(frozen=True)
class MetricValue:
    """One figure of an evaluation.

    Attributes:
        name: Metric as the training code names it, for example `"accuracy"`, `"f1_macro"` or `"r2"`.
        value: The figure.
        low: Lower end of its 95 % bootstrap interval over clips; None where none was computed.
        high: Upper end of that interval.

    Raises:
        UsageError: If a figure is not finite, or the interval has one end or ends in the wrong order.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        figures = [figure for figure in (self.value, self.low, self.high) if figure is not None]
        if not all(math.isfinite(figure) for figure in figures):
            raise UsageError(f"metric {self.name!r}: {figures} holds a figure that is not finite")
        if (self.low is None) != (self.high is None):
            raise UsageError(f"metric {self.name!r}: an interval needs both low and high")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise UsageError(f"metric {self.name!r}: the interval {self.low} to {self.high} is upside down")


@dataclass(frozen=True)
class SplitSize:
    """How much a split holds.

    Attributes:
        clips: Number of clips.
        hours: Their total duration in hours; None if unknown.
    """

    clips: int
    hours: float | None = None


@dataclass(frozen=True)
class DataDescription:
    """The data a model was trained and judged on.

    Attributes:
        name: Readable name, for example `"ESC-10"`.
        source: Where it comes from: a URL, a citation or a sentence.
        license: Its licence in words or as an identifier.
        splits: Size of each split, in the order to be shown.
        hub_id: Id on the Hub where it is there (`"owner/name"`).
    """

    name: str
    source: str
    license: str
    splits: Mapping[str, SplitSize]
    hub_id: str | None = None


@dataclass(frozen=True)
class CardData:
    """Everything a model card says.

    Attributes:
        model_name: Name of the model, for example `"momamba-tiny-esc10"`.
        summary: One or two sentences: what it is and what it does.
        task: The task in words, for example `"environmental sound classification"`.
        problem_type: `single_label_classification`, `multi_label_classification` or `regression`.
        data: The data.
        labels: Labels, or names of the outputs of a regression, in the order of the head.
        metrics: For each evaluated split its metrics, the most important one first.
        floors: For each simple method (majority class, logistic regression, ...) its metrics on `floor_split`.
        floor_split: The split that the floors and the model are compared on.
        training_arguments: Arguments that shaped the run, in the order to be shown.
        command: The shell command that made the model.
        seeds: Seeds of the runs that the figures come from.
        num_parameters: Number of parameters.
        training_time_s: Wall-clock time of training in seconds.
        hardware: What it ran on.
        package_versions: Versions of the packages that matter.
        license: Licence identifier of the model as the Hub knows it.
        limitations: What the model cannot do or was not tested for, a sentence each.
        skipped_files: (name, reason) of the files that could not be used.
        figures: (caption, file name) of pictures beside the card.
        base_model: Model id or folder that training started from; None for training from scratch.
        repo_id: Repository on the Hub, used in the example; None takes `model_name`.
        tags: Tags besides those that every model of this package carries.
    """

    model_name: str
    summary: str
    task: str
    problem_type: str
    data: DataDescription
    labels: Sequence[str]
    metrics: Mapping[str, Sequence[MetricValue]]
    training_arguments: Mapping[str, object]
    command: str
    seeds: Sequence[int]
    num_parameters: int
    training_time_s: float
    hardware: str
    package_versions: Mapping[str, str]
    license: str = "apache-2.0"
    floors: Mapping[str, Sequence[MetricValue]] = field(default_factory=dict)
    floor_split: str = "test"
    limitations: Sequence[str] = ()
    skipped_files: Sequence[tuple[str, str]] = ()
    figures: Sequence[tuple[str, str]] = ()
    base_model: str | None = None
    repo_id: str | None = None
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.metrics or not all(self.metrics.values()):
            raise UsageError("metrics: a model card needs at least one metric for every split that it names")
        if self.floors and self.floor_split not in self.metrics:
            raise UsageError(
                f"floor_split {self.floor_split!r} is not among the evaluated splits: {', '.join(self.metrics)}"
            )
