"""Averages: of the weights of several checkpoints, and of the outputs for several shifts of a clip.

Source: HTS-AT (Chen et al. 2022), whose training code averages the tensors of its best checkpoints and tests with the
mean over ten circular shifts of each clip.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_audio_mamba.training.checkpoints import list_checkpoints

# HTS-AT moves a clip on by 100, 200, 300 ... samples of 1/32000 s from one pass to the next.
_FIRST_SHIFT_SECONDS = 100 / 32_000


def chosen_checkpoints(
    folder: Path,
    log_history: Sequence[Mapping[str, Any]],
    count: int,
    *,
    metric: str | None,
    greater_is_better: bool,
    last_step: int,
) -> list[Path]:
    """The checkpoints to average: the best ones by a validation metric, or the last ones.

    Args:
        folder: Folder of the run.
        log_history: Log of the run, with the validation scores by step.
        count: How many at most.
        metric: Name of the metric with or without `eval_`; `None` takes the last checkpoints.
        greater_is_better: Whether more of the metric is better. Of equal ones the later is taken.
        last_step: Checkpoints of later steps (of an earlier run of the same folder) do not count.

    Returns:
        Folders, the first choice first; fewer than `count` where there are fewer.
    """
    found = {int(path.name.rpartition("-")[2]): path for path in list_checkpoints(folder)}
    folders = {step: path for step, path in found.items() if step <= last_step}
    if metric is None:
        ranked = sorted(folders, reverse=True)
    else:
        key = f"eval_{metric.removeprefix('eval_')}"
        scores = {entry["step"]: entry[key] for entry in log_history if key in entry and entry["step"] in folders}
        sign = 1 if greater_is_better else -1
        ranked = sorted(scores, key=lambda step: (sign * scores[step], step), reverse=True)
    return [folders[step] for step in ranked[:count]]


def mean_weights(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of each tensor over state dicts of one model, computed in float64.

    Tensors of whole numbers (counters) are those of the first state dict.

    Args:
        states: At least one; each is used up before the next is asked for, so they may share their memory.
    """
    sums: dict[str, Tensor] = {}
    kinds: dict[str, torch.dtype] = {}
    count = 0
    for state in states:
        for name, tensor in state.items():
            if name not in sums:
                kinds[name] = tensor.dtype
                sums[name] = tensor.to(torch.float64, copy=True) if tensor.is_floating_point() else tensor.clone()
            elif tensor.is_floating_point():
                sums[name] += tensor
        count += 1
    return {
        name: (total / count).to(kinds[name]) if kinds[name].is_floating_point else total
        for name, total in sums.items()
    }


def time_shifts(count: int, frames_per_second: float) -> list[int]:
    """Circular shifts for testing, in frames: 0, and then at least one more each time.

    HTS-AT's shifts in samples (in all 0, 100, 300, 600, 1000 ... at 32 kHz) are rounded to frames.

    Args:
        count: How many, at least 1.
        frames_per_second: Of the features.
    """
    shifts = [0]
    for index in range(1, count):
        seconds = index * (index + 1) / 2 * _FIRST_SHIFT_SECONDS
        shifts.append(max(shifts[-1] + 1, round(seconds * frames_per_second)))
    return shifts


def average_outputs(problem_type: str, outputs: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """Mean over several passes: of probabilities, given back as logits of that mean, or of regression values.

    Args:
        problem_type: One of `PROBLEM_TYPES`.
        outputs: Logits or values `(clips, outputs)` of each pass.
    """
    stacked = torch.from_numpy(np.stack(outputs).astype(np.float64))
    size = len(stacked)
    if problem_type == "regression":
        mean = stacked.mean(dim=0)
    elif problem_type == "single_label_classification":
        # The logarithm of a probability is a logit; logsumexp keeps small ones apart.
        mean = stacked.log_softmax(dim=-1).logsumexp(dim=0) - np.log(size)
    else:
        present, absent = (torch.nn.functional.logsigmoid(sign * stacked).logsumexp(dim=0) for sign in (1, -1))
        mean = present - absent
    result: NDArray[np.float64] = mean.numpy()
    return result
