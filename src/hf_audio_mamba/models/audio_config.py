"""What the configurations of all audio models share: labels, problem types and checks of ranges and choices."""

# No `from __future__ import annotations` here: it would turn off the type checks of @strict.
from collections.abc import Collection, Mapping
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
# Far above any model of this kind; a larger number in a file is damage or malice, refused before memory is asked for.
MAX_HIDDEN_SIZE = 65_536
MAX_LAYERS = 1_024
MAX_LABELS = 1_000_000


def _inverse(label2id: Mapping[str, int]) -> dict[int, str]:
    return {int(index): name for name, index in label2id.items()}


@strict
class AudioConfig(PreTrainedConfig):
    """Base of the audio models' configurations.

    `problem_type` is one of `"single_label_classification"`, `"multi_label_classification"` and `"regression"` and
    chooses the head. A model with one output and no `problem_type` is a regression. `id2label` or `label2id` alone is
    enough: the other is derived.

    Raises:
        StrictDataclassFieldValidationError: A field has the wrong type.
        StrictDataclassClassValidationError: A field is out of its range, or fields contradict each other.
    """

    # Fields of the base class, which does not check their types.
    id2label: dict[int, str] | dict[str, str] | None = None
    label2id: dict[str, int] | None = None
    problem_type: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        num_labels = kwargs.get("num_labels")
        if num_labels is not None and not 1 <= num_labels <= MAX_LABELS:
            # Transformers would build a list of that many names before anything else could refuse it.
            raise ValueError(f"num_labels must be from 1 to {MAX_LABELS}, not {num_labels}")
        if self.id2label is None and self.label2id is not None:
            self.id2label = _inverse(self.label2id)
        super().__post_init__(**kwargs)
        if self.id2label is not None and self.label2id is None:
            self.label2id = {name: int(index) for index, name in self.id2label.items()}
        if self.problem_type is None and self.num_labels == 1:
            self.problem_type = "regression"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration from stored fields and changes to them; one changed label map replaces both."""
        if kwargs.get("id2label") is not None and kwargs.get("label2id") is None:
            kwargs["id2label"] = {int(index): name for index, name in kwargs["id2label"].items()}
            kwargs["label2id"] = {name: index for index, name in kwargs["id2label"].items()}
        elif kwargs.get("label2id") is not None and kwargs.get("id2label") is None:
            kwargs["id2label"] = _inverse(kwargs["label2id"])
        return super().from_dict(config_dict, **kwargs)

    def validate_labels(self) -> None:
        """Check the problem type, and that the two label maps cover 0 to num_labels - 1 and agree."""
        self._check_choices({"problem_type": (*PROBLEM_TYPES, None)})
        if self.id2label is None:
            return
        if sorted(self.id2label) != list(range(len(self.id2label))):
            raise ValueError(f"id2label must have the keys 0 to {len(self.id2label) - 1} without gaps")
        if len(set(self.id2label.values())) != len(self.id2label):
            raise ValueError("id2label gives two indices the same name; every label needs a name of its own")
        if self.label2id is not None and _inverse(self.label2id) != self.id2label:
            raise ValueError("label2id and id2label do not agree; give one of them alone")

    def _check_ranges(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        """Refuse fields outside their closed range `(low, high)`."""
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be from {low} to {high}, not {value}")

    def _check_choices(self, choices: Mapping[str, Collection[Any]]) -> None:
        """Refuse fields that are none of their allowed values."""
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")

    def _check_positive(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")

    def _check_dropout(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a probability in [0, 1), not {getattr(self, name)}")


__all__ = ["MAX_HIDDEN_SIZE", "MAX_LABELS", "MAX_LAYERS", "PROBLEM_TYPES", "AudioConfig"]
