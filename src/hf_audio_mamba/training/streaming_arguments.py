"""Options of training on a stream of shards."""

from dataclasses import dataclass, field

from hf_audio_mamba.errors import UsageError


@dataclass
class StreamingArguments:
    """How clips are streamed from shards; a part of `DataArguments`.

    Attributes:
        streaming: Read `data_dir` as shards (Parquet or WebDataset), clip by clip, and compute features on the fly.
        shuffle_buffer: Encoded clips that each process and loading worker holds in memory to shuffle them.
        label_file: CSV file with the class names; see `hf_audio_mamba.data.shards.read_label_table`.
    """

    streaming: bool = field(
        default=False,
        metadata={"help": "Stream clips from the shards (*.parquet, *.tar) in --data_dir; needs --max_steps."},
    )
    shuffle_buffer: int = field(
        default=1000,
        metadata={"help": "Encoded clips that each process and loading worker holds to shuffle a stream."},
    )
    label_file: str | None = field(
        default=None,
        metadata={
            "help": "Class names of a stream: CSV with display_name and perhaps mid (default: labels.csv or "
            "class_labels_indices.csv in --data_dir)."
        },
    )

    def check_streaming(self) -> None:
        """Refuse what a stream cannot do.

        Raises:
            UsageError: Naming the option.
        """
        if self.shuffle_buffer < 0:
            raise UsageError(f"--shuffle_buffer is {self.shuffle_buffer}; it must be 0 or more.")
        if not self.streaming:
            if self.label_file is not None:
                raise UsageError("--label_file belongs to --streaming; folders and Hub data sets name their classes.")
            return
        if getattr(self, "data_dir", None) is None:
            raise UsageError("--streaming needs --data_dir, a folder of shards (`hf-audio-mamba shards` makes one).")
        if getattr(self, "problem_type", None) == "regression":
            raise UsageError("--streaming is for classes; train a regression without it.")
        for name in ("metadata", "fold", "transpose_copies", "train_on_validation", "label_range"):
            if getattr(self, name, None):
                raise UsageError(f"--{name} does not go with --streaming: the shards decide who trains.")
