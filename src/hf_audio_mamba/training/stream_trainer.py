"""The part of `AudioTrainer` that deals with streams of clips; with other data it changes nothing."""

from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from hf_audio_mamba.data import ClipStream
from hf_audio_mamba.training.stream_evaluation import evaluate_stream
from hf_audio_mamba.training.streaming import resume_stream, save_stream_state, stream_loader


class StreamTrainer(Trainer):
    """A Trainer whose data may be `ClipStream`s, which already are the part of their process."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The training loader; a stream's is not divided among processes once more."""
        if isinstance(self.train_dataset, ClipStream):
            return self._stream_loader(self.train_dataset)
        return super().get_train_dataloader()  # type: ignore[no-any-return]

    def get_eval_dataloader(self, eval_dataset: str | Dataset[Any] | None = None) -> DataLoader[Any]:
        """The loader of the evaluation data."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, ClipStream):
            return self._stream_loader(dataset)
        return super().get_eval_dataloader(eval_dataset)  # type: ignore[no-any-return]

    def get_test_dataloader(self, test_dataset: Dataset[Any]) -> DataLoader[Any]:
        """The loader of a split to predict."""
        if isinstance(test_dataset, ClipStream):
            return self._stream_loader(test_dataset)
        return super().get_test_dataloader(test_dataset)  # type: ignore[no-any-return]

    def evaluation_loop(self, dataloader: DataLoader[Any], *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Outputs and metrics of what a loader gives."""
        if isinstance(dataloader.dataset, ClipStream):
            return evaluate_stream(self, dataloader, kwargs.get("metric_key_prefix", "eval"))
        return super().evaluation_loop(dataloader, *args, **kwargs)

    def gather_count(self, count: int) -> int:
        """Sum of a number over all processes; each must call this."""
        return int(sum(gather_object([count])))

    def _stream_loader(self, stream: ClipStream) -> DataLoader[Any]:
        return stream_loader(stream, self.data_collator, self.args.dataloader_num_workers)

    def _save_stream_state(self, folder: Path) -> None:
        if isinstance(self.train_dataset, ClipStream):
            save_stream_state(folder, self.train_dataset, self.args)

    def _start_stream(self, checkpoint: str | None) -> None:
        if checkpoint is not None and isinstance(self.train_dataset, ClipStream):
            resume_stream(Path(checkpoint), self.train_dataset, self.args)
