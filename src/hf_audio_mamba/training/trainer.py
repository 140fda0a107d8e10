"""`AudioTrainer`: the Trainer of Transformers, strict about resuming and careful with what is already on the disk."""

import inspect
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler
from transformers import EarlyStoppingCallback, PreTrainedModel
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState, PrinterCallback
from transformers.trainer_utils import rotate_checkpoints

from hf_audio_mamba.errors import CheckpointError, HFAudioMambaError, UsageError
from hf_audio_mamba.training.arguments import AudioTrainingArguments
from hf_audio_mamba.training.averaging import chosen_checkpoints, mean_weights
from hf_audio_mamba.training.callbacks import EpochCallback
from hf_audio_mamba.training.checkpoints import (
    PARTIAL_PREFIX,
    find_problem,
    fsync_folder,
    last_complete_checkpoint,
    list_checkpoints,
    publish,
    reporting_failed_writes,
)
from hf_audio_mamba.training.losses import single_label_loss
from hf_audio_mamba.training.metrics import METRICS, best_is_greater, check_metric, trainer_metrics
from hf_audio_mamba.training.samplers import EpochSampler, training_sampler
from hf_audio_mamba.training.schedules import EPOCH_SCHEDULES, epoch_factor
from hf_audio_mamba.training.stream_trainer import StreamTrainer

logger = logging.getLogger(__name__)


class AudioTrainer(StreamTrainer):
    """Trainer for audio classification and regression.

    It differs from its base in what audio and reliability ask for: soft labels (mixup) and label smoothing for
    single-label problems, weight decay on matrices only (never on state matrices `A_log`, skip weights, step biases,
    norms and biases), clip order and augmentation as functions of (seed, epoch), evaluation that leaves the random
    state alone, checkpoints that appear whole or not at all, and a resume that refuses anything less.

    Args:
        model: An audio classifier whose configuration has `problem_type` set.
        args: `AudioTrainingArguments`.
        data_collator: Makes batches of `input_values`, `attention_mask` and `labels`.
        train_dataset: Items with `input_values (frames, bands)` and `labels`; if it has `set_epoch`, that is called
            before each epoch; its `lengths` serve `group_by_length`.
        eval_dataset: The same without augmentation.
        feature_extractor: Saved beside the model.
        train_labels: Class index of each training clip, for `class_balanced` and `class_queue`.

    Attributes:
        averaged_steps: With `average_checkpoints`, after training: steps of the checkpoints that the result averages.

    Raises:
        UsageError: If the configuration has no problem type, or arguments do not fit it.
    """

    lr_scheduler: Any

    def __init__(
        self,
        model: PreTrainedModel,
        args: AudioTrainingArguments,
        *,
        data_collator: Any,
        train_dataset: Dataset[Any] | None = None,
        eval_dataset: Dataset[Any] | None = None,
        feature_extractor: Any = None,
        train_labels: Sequence[Any] | None = None,
    ) -> None:
        self._problem_type = getattr(model.config, "problem_type", None)
        if self._problem_type not in METRICS:
            raise UsageError(f"config.problem_type is {self._problem_type!r}; set it to one of {', '.join(METRICS)}.")
        if args.label_smoothing_factor and self._problem_type != "single_label_classification":
            raise UsageError("--label_smoothing_factor belongs to single-label classification.")
        if args.single_label_loss != "cross_entropy" and self._problem_type != "single_label_classification":
            raise UsageError(f"--single_label_loss {args.single_label_loss} belongs to single-label classification.")
        if args.load_best_model_at_end and args.metric_for_best_model is None:
            args.metric_for_best_model = METRICS[self._problem_type][0]
        if args.metric_for_best_model:
            check_metric(self._problem_type, args.metric_for_best_model)
            args.greater_is_better = best_is_greater(args.metric_for_best_model)
        self._train_sampler: EpochSampler | None = None
        self._train_labels = train_labels
        self.averaged_steps: list[int] = []
        # Models for clips of one length (Audio Spectrogram Transformer) take no mask.
        self._takes_mask = "attention_mask" in inspect.signature(model.forward).parameters
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=feature_extractor,
            compute_metrics=trainer_metrics(self._problem_type),
        )
        # The loss is a mean over clips, whatever keyword arguments the model's forward may swallow.
        self.model_accepts_loss_kwargs = False
        self.pop_callback(PrinterCallback)
        self.add_callback(EpochCallback(self.set_epoch))
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(early_stopping_patience=args.early_stopping_patience))

    # Order of clips

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The training loader, whose worker seeds do not come from torch's global random state.

        Otherwise whether workers outlive an epoch, and a resume, would change what dropout draws.
        """
        loader: Any = super().get_train_dataloader()
        plain = getattr(loader, "base_dataloader", loader)
        plain.generator = torch.Generator().manual_seed(self.args.seed)
        return loader  # type: ignore[no-any-return]  # accelerate's wrapper passes for a DataLoader

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        self._train_sampler = training_sampler(
            self.args.train_sampling_strategy,
            len(dataset),
            seed=self.args.seed,
            batch_size=self.args.train_batch_size * self.args.world_size,
            lengths=getattr(dataset, "lengths", None),
            labels=self._train_labels,
        )
        return self._train_sampler

    def _get_eval_sampler(self, eval_dataset: Dataset[Any]) -> Sampler[int] | None:
        # Always in the order of the data set (the base class sorts by length on request): predictions have names.
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """Tell sampler and training data which epoch comes next."""
        # Done here and not left to the loader: on a resume in mid-epoch accelerate wraps the batch sampler in one that
        # does not pass the epoch on, and the interrupted epoch would start over in the order of epoch 0.
        if self._train_sampler is not None:
            self._train_sampler.set_epoch(epoch)
        if hasattr(self.train_dataset, "set_epoch"):
            self.train_dataset.set_epoch(epoch)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if not self._takes_mask:
            inputs = {name: value for name, value in inputs.items() if name != "attention_mask"}
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        return prepared

    # Loss and optimiser

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Loss of a batch: the model's own, except for single labels that are soft, smoothed or scored one by one."""
        labels = inputs.get("labels")
        smoothing = self.args.label_smoothing_factor if model.training else 0.0
        binary = self.args.single_label_loss == "binary_cross_entropy"
        single = self._problem_type == "single_label_classification"
        if labels is None or not single or not (smoothing or binary or labels.is_floating_point()):
            outputs = model(**inputs)
            loss = outputs["loss"]
        else:
            outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
            loss = single_label_loss(outputs["logits"].float(), labels, smoothing=smoothing, binary=binary)
        return (loss, outputs) if return_outputs else loss

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters that decay: matrices, except those marked with `_no_weight_decay`, or simply all."""
        if self.args.weight_decay_all:
            return [name for name, _ in model.named_parameters()]
        names = set(super().get_decay_parameter_names(model))
        return [
            name
            for name, parameter in model.named_parameters()
            if name in names and parameter.ndim > 1 and not getattr(parameter, "_no_weight_decay", False)
        ]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule of `lr_scheduler_type`, of Transformers or of `hf_audio_mamba.training.schedules`."""
        if self.lr_scheduler is None and self.args.lr_scheduler_type in EPOCH_SCHEDULES:
            warmup_steps = self.args.get_warmup_steps(num_training_steps)
            factor = epoch_factor(self.args, self.train_dataset, warmup_steps=warmup_steps)
            self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, factor)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as the base class does, leaving torch's random state as it was.

        Loaders draw from it, so otherwise how often one evaluates would change the training.
        """
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=devices):
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        return metrics

    # Checkpoints

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train, from the start or from a checkpoint.

        Args:
            resume_from_checkpoint: A checkpoint folder, which must be complete, or True for the last complete one of
                `output_dir` (where there is none at all, training starts from the beginning and the log says so).
            **kwargs: Passed on to `transformers.Trainer.train`.

        Raises:
            CheckpointError: If the checkpoint is incomplete or does not fit the model.
            OutputError: If a checkpoint cannot be written.
            HFAudioMambaError: If a data-loading process died, or training diverged.
        """
        checkpoint = self._checked(resume_from_checkpoint)
        self._start_stream(checkpoint)
        try:
            result = super().train(resume_from_checkpoint=checkpoint, **kwargs)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise HFAudioMambaError(
                f"A data-loading process died ({str(error).splitlines()[0]}), perhaps for want of memory. "
                "Continue with --resume and a smaller --dataloader_num_workers (0 loads in the main process)."
            ) from error
        if self.args.average_checkpoints is not None:
            self._load_average()
        return result

    def _checked(self, resume: str | bool | None) -> str | None:
        if not resume:
            return None
        world_size, partial = self.args.world_size, self.args.allow_partial_resume
        if resume is True:
            found = last_complete_checkpoint(self.args.output_dir, world_size=world_size, allow_partial=partial)
            if found is None:
                logger.warning("%s holds no checkpoint; training starts from the beginning.", self.args.output_dir)
                return None
            resume = str(found)
        elif problem := find_problem(Path(resume), world_size=world_size, allow_partial=partial):
            raise CheckpointError(f"{resume} cannot be resumed from: {problem}.")
        if partial:
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME):
                if not Path(resume, name).is_file():
                    logger.warning("%s has no %s; it starts afresh (--allow_partial_resume).", resume, name)
        logger.warning("Resuming from %s.", resume)
        return resume

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint under another name, rename it when it is whole, and only then delete older ones."""
        self.store_flos()
        folder = Path(self.args.output_dir)
        final = folder / f"checkpoint-{self.state.global_step}"
        partial = folder / f"{PARTIAL_PREFIX}{final.name}"
        if self.args.should_save and partial.exists():
            shutil.rmtree(partial)
        self.accelerator.wait_for_everyone()
        if self.state.best_global_step:
            best = folder / f"checkpoint-{self.state.best_global_step}"
            if best == final or best.is_dir():
                self.state.best_model_checkpoint = str(best)
        needed = self._checkpoint_bytes()
        try:
            with reporting_failed_writes(final, needed_bytes=needed):
                self._write_checkpoint(partial)
            self.accelerator.wait_for_everyone()
            with reporting_failed_writes(final, needed_bytes=needed):
                if self.args.should_save:
                    publish(partial, final)
        except BaseException:
            if self.args.should_save:
                shutil.rmtree(partial, ignore_errors=True)
            raise
        if self.args.should_save:
            self._delete_older()
        self.accelerator.wait_for_everyone()

    def _delete_older(self) -> None:
        limit, best = self.args.save_total_limit, self.state.best_model_checkpoint
        if self.args.average_checkpoints is None:
            rotate_checkpoints(self.args.output_dir, limit, best)
        elif limit is not None and limit > 0:
            needed = {*map(str, self._to_average()), best}
            for path in list_checkpoints(self.args.output_dir)[limit:]:
                if str(path) not in needed:
                    shutil.rmtree(path)

    def _to_average(self) -> list[Path]:
        return chosen_checkpoints(
            Path(self.args.output_dir),
            self.state.log_history,
            self.args.average_checkpoints,
            metric=self.args.metric_for_best_model,
            greater_is_better=bool(self.args.greater_is_better),
            last_step=self.state.global_step,
        )

    def _load_average(self) -> None:
        """Give the model the mean weights of the checkpoints that `average_checkpoints` asks for."""
        self.accelerator.wait_for_everyone()
        chosen = self._to_average()
        if len(chosen) < self.args.average_checkpoints:
            logger.warning("--average_checkpoints: there are %d, not %d.", len(chosen), self.args.average_checkpoints)
        if not chosen:
            raise CheckpointError("--average_checkpoints: no checkpoint has a validation score to choose it by.")

        def weights(folder: Path) -> dict[str, torch.Tensor]:
            if problem := find_problem(folder, allow_partial=True):
                raise CheckpointError(f"{folder} cannot be averaged: {problem}; restore it, or start again.")
            self._load_from_checkpoint(str(folder))
            state: dict[str, torch.Tensor] = self.model.state_dict()
            return state

        self.model.load_state_dict(mean_weights(weights(folder) for folder in chosen))
        self.averaged_steps = sorted(int(folder.name.rpartition("-")[2]) for folder in chosen)

    def save_final_model(self, folder: Path) -> None:
        """Write model and feature extractor into a folder, where each file is either the old or the new one.

        Raises:
            OutputError: If it cannot be written.
        """
        partial = folder / f"{PARTIAL_PREFIX}model"
        with reporting_failed_writes(folder, needed_bytes=self._model_bytes()):
            try:
                self.save_model(str(partial), _internal_call=True)
                fsync_folder(partial)
                for path in partial.iterdir():
                    path.replace(folder / path.name)
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    def _write_checkpoint(self, folder: Path) -> None:
        self.save_model(str(folder), _internal_call=True)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_scaler(str(folder))
        self._save_rng_state(str(folder))
        if not self.args.should_save:
            return
        self._save_stream_state(folder)
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                name = type(callback).__name__
                stored = self.state.stateful_callbacks.get(name)
                if isinstance(stored, list):
                    stored.append(callback.state())
                else:
                    self.state.stateful_callbacks[name] = callback.state()
        self.state.save_to_json(os.fspath(folder / TRAINER_STATE_NAME))

    def _model_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.model.parameters(), *self.model.buffers()))

    def _checkpoint_bytes(self) -> int:
        """Size of weights and optimiser state; the rest of a checkpoint is small beside them."""
        states = self.optimizer.state.values() if self.optimizer is not None else ()
        tensors = [value for state in states for value in state.values() if torch.is_tensor(value)]
        return self._model_bytes() + sum(tensor.nbytes for tensor in tensors)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load weights as `from_pretrained` does and accept no gap.

        The base class loads by plain names and only warns of missing ones: models whose stored names differ from their
        modules' (Audio Spectrogram Transformer) would go on from fresh layers (huggingface/transformers#43701).
        """
        target = self.model if model is None else model
        try:
            loaded, info = type(self.model).from_pretrained(
                resume_from_checkpoint, config=self.model.config, dtype=self.model.dtype, output_loading_info=True
            )
        except (RuntimeError, OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"{resume_from_checkpoint} does not fit this model: {error}") from error
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if info[what]:
                names = ", ".join(sorted(str(key) for key in info[what])[:5])
                raise CheckpointError(
                    f"{resume_from_checkpoint} does not fit this model: {len(info[what])} {what.replace('_', ' ')} "
                    f"({names} ...). Resume with the configuration that wrote it."
                )
        target.load_state_dict(loaded.state_dict())

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None and self.args.average_checkpoints is None:
            self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"The optimiser state in {checkpoint} does not fit this model: {error}") from error
