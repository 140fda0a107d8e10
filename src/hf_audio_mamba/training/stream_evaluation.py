"""Evaluation on a stream: each process scores its own part, and the scores are put together at the end."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction

from hf_audio_mamba.data import ClipStream
from hf_audio_mamba.errors import DataError

if TYPE_CHECKING:
    from hf_audio_mamba.training.stream_trainer import StreamTrainer


def evaluate_stream(trainer: "StreamTrainer", loader: DataLoader[Any], prefix: str) -> EvalLoopOutput:
    """Outputs for the clips of a stream, in the order of their names, and their metrics.

    Processes may have different numbers of clips, which the Trainer's own loop, where all must go in step, cannot
    serve: so the bare model is used here, and nothing is exchanged before the end. `loader.dataset.names` are the names
    of the clips afterwards, and `loader.dataset.num_unreadable` counts those that could not be read, in all processes.

    Args:
        trainer: The trainer.
        loader: Of a `ClipStream`.
        prefix: In front of the names of metrics.

    Raises:
        DataError: If no clip can be read, or two have the same name.
    """
    stream = loader.dataset
    assert isinstance(stream, ClipStream)
    before = stream.num_skipped
    rows = [row for batch in loader for row in _score(trainer, batch)]
    gathered = sorted(gather_object(rows), key=lambda row: str(row[0]))
    stream.num_unreadable = sum(gather_object([stream.num_skipped - before]))
    if not gathered:
        raise DataError(f"no clip of {', '.join(path.name for path in stream.source.shards)} can be read")
    stream.names = [row[0] for row in gathered]
    if len(set(stream.names)) != len(gathered):
        raise DataError(f"two clips of {stream.source.shards[0].parent} have the same name; names tell clips apart")
    outputs, labels = np.stack([row[1] for row in gathered]), np.asarray([row[2] for row in gathered])
    metrics = {"loss": float(np.mean([row[3] for row in gathered]))}
    if trainer.compute_metrics is not None:
        metrics |= trainer.compute_metrics(EvalPrediction(predictions=outputs, label_ids=labels))
    named = {f"{prefix}_{name}": value for name, value in metrics.items()}
    return EvalLoopOutput(predictions=outputs, label_ids=labels, metrics=named, num_samples=len(gathered))


def _score(trainer: "StreamTrainer", batch: dict[str, Any]) -> list[tuple[str, Any, Any, float]]:
    """Name, logits, label and loss of each clip of a batch."""
    names = batch.pop("names")
    inputs = trainer._prepare_inputs(batch)
    model = trainer.model.eval()
    with torch.no_grad(), trainer.compute_loss_context_manager():
        loss, outputs = trainer.compute_loss(model, inputs, return_outputs=True)
    logits = outputs["logits"].float().cpu().numpy()
    return list(zip(names, logits, inputs["labels"].cpu().numpy(), [float(loss)] * len(names), strict=True))
