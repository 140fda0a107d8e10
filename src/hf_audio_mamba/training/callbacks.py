"""What `AudioTrainer` does at the beginning of an epoch and after an evaluation."""

import logging
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

# The lines belong to the training, wherever they are written.
logger = logging.getLogger("hf_audio_mamba.training.trainer")


class EpochCallback(TrainerCallback):
    """Passes the number of each epoch on before its first batch, and reports on each evaluation.

    Args:
        set_epoch: Called with the number of the epoch that is about to begin.
    """

    def __init__(self, set_epoch: Callable[[int], None]) -> None:
        self._set_epoch = set_epoch

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch; `state.epoch` counts finished epochs and, after a resume, the fraction of the current one."""
        self._set_epoch(int(state.epoch or 0))

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log one line; the progress bar of a terminal shows the same in its own way."""
        if not state.is_world_process_zero or not args.disable_tqdm:
            return
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        training = f"loss {losses[-1]:.4f}, " if losses else ""
        scores = kwargs.get("metrics", {})
        names = ("loss", args.metric_for_best_model or "loss")
        shown = {name: scores.get(f"eval_{name.removeprefix('eval_')}") for name in names}
        text = ", ".join(f"validation {name} {value:.4f}" for name, value in shown.items() if value is not None)
        if args.max_steps > 0:
            logger.info("step %d of %d: %s%s", state.global_step, args.max_steps, training, text)
        else:
            logger.info("epoch %.4g of %g: %s%s", state.epoch, args.num_train_epochs, training, text)
