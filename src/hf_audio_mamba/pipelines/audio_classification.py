"""The audio classification pipeline: files, URLs, arrays and decoders in, labels with scores out.

It takes all that transformers' pipeline of this name takes, but reads files with libsndfile and resamples with soxr, so
that neither ffmpeg nor torchaudio has to be installed, and it can score long recordings window by window.
"""

import difflib
import math
import numbers
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers.pipelines.audio_classification import AudioClassificationPipeline as StockPipeline
from transformers.pipelines.base import ChunkPipeline

from hf_audio_mamba.errors import AudioError, CheckpointError, UsageError
from hf_audio_mamba.pipelines.clips import NamedClip, NamedClips, read_stretches
from hf_audio_mamba.pipelines.windows import Chunking, average_over_time, steps_within

_PREPROCESS_ARGUMENTS = ("chunk_length_s", "stride_length_s", "timeout")
_POSTPROCESS_ARGUMENTS = ("top_k", "function_to_apply", "return_timestamps")
# `pipeline()` uses it to load the model and passes it on all the same.
_FACTORY_ARGUMENTS = ("local_files_only",)
_FUNCTIONS = ("softmax", "sigmoid", "none")


class AudioClassificationPipeline(ChunkPipeline, StockPipeline):
    """Audio classification for any model that returns `logits` `(batch, labels)` and any audio feature extractor.

    `transformers.pipeline("audio-classification", model=...)` builds it for the models of this package.

    Without `chunk_length_s` a clip is scored whole, as the models of this package are trained; memory then grows with
    its length, and clips above 10 minutes are refused. With it, recordings of any length are read and scored window by
    window, and scores are averaged with one weight per second of audio.

    Args:
        model: A model for audio classification.
        feature_extractor: Its feature extractor, called as `feature_extractor(samples, sampling_rate=...,
            return_tensors="pt")` with mono samples at its own `sampling_rate`.
        top_k: Number of labels to return, best first; 5 by default, `None` for all of them.
        function_to_apply: `"softmax"`, `"sigmoid"` or `"none"`; by default sigmoid for multi-label models, none for
            regression, else softmax.
        chunk_length_s: Seconds per window, at least 0.1; `None`, the default, scores clips whole.
        stride_length_s: Seconds of context on each side of a window, or a pair (left, right), as in transformers'
            speech recognition pipeline: heard by the model, but scored by the neighbouring window. Windows start
            `chunk_length_s - left - right` seconds apart. 0 by default.
        return_timestamps: Also return scores over time: of each time step for models that score them (AudioMamba), with
            or without windows; of each window for others, which needs `chunk_length_s`.
        timeout: Seconds that a download may take, 60 by default.
        batch_size: Clips or windows per forward pass, 1 by default.
        num_workers: 1 reads in a second process; 0, the default, in this one.
        **kwargs: `device` and the others of `transformers.Pipeline`.

    Every argument from `top_k` on can also be given to a call, for that call alone.

    Raises:
        UsageError: If an argument is unknown or unusable, or there is no feature extractor.

    Example:
        >>> import hf_audio_mamba
        >>> from transformers import pipeline
        >>> classify = pipeline("audio-classification", model="my_model")  # doctest: +SKIP
        >>> classify("song.mp3", chunk_length_s=10.0, top_k=3)  # doctest: +SKIP
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.feature_extractor is None:
            raise UsageError("the audio classification pipeline needs a feature extractor: pass feature_extractor=...")

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Classify one clip or many.

        Args:
            inputs: One clip, or a list, generator or data set of clips. A clip is
                a path to a wav, flac, ogg or mp3 file, its content as bytes, or an `http(s)://` address;
                an array or tensor `(samples,)` or `(channels, samples)`, or a list of numbers, at the feature
                extractor's sampling rate;
                a dict with `array` or `raw` and `sampling_rate` (any rate), or with `bytes` or `path`;
                a torchcodec `AudioDecoder`. Channels are averaged.
            **kwargs: `top_k`, `chunk_length_s` and the other arguments of the class from `top_k` on.

        Returns:
            For a clip a list of `{"score": float, "label": str}`, best first. With `return_timestamps` a dict: `labels`
            is that list, and `timeline` holds `{"timestamp": (start, end), "labels": [...]}` for each time step or
            window; these stretches, in seconds, cover the recording once. For a list of clips a list of these, for a
            generator or data set an iterator that works as it is read.

        Raises:
            AudioError: If a clip cannot be read or is too short or too long; in a list it ends the call.
            CheckpointError: If the model's scores are not finite.
            UsageError: If an argument is unknown, unusable or contradicts another.
        """
        if isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes, bytearray, memoryview)):
            if _is_waveform(inputs):
                return super().__call__(np.asarray(inputs), **kwargs)
            if not isinstance(inputs, (list, tuple)):
                # The columns of `datasets`: items are decoded as they are read, which a list would do all at once.
                return list(super().__call__((clip for clip in inputs), **kwargs))
            return super().__call__(list(inputs), **kwargs) if inputs else []
        # The base class looks into the first item of these, also where there is none.
        if isinstance(inputs, Dataset) and isinstance(inputs, Sized) and len(inputs) == 0:
            return iter([])
        return super().__call__(inputs, **kwargs)

    def get_iterator(
        self,
        inputs: Iterable[Any],
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[Any]:
        """Score clips in a stream; every call comes through here, its arguments merged with the constructor's."""
        _check_count("batch_size", batch_size, least=1)
        _check_count("num_workers", num_workers, least=0)
        if preprocess_params.get("chunk_length_s") is None:
            if preprocess_params.get("stride_length_s"):
                raise UsageError("stride_length_s needs chunk_length_s, the length of a window in seconds")
            if postprocess_params.get("return_timestamps") and self.seconds_per_step is None:
                raise UsageError(
                    "return_timestamps needs chunk_length_s, the length of a window in seconds: this model scores "
                    "whole clips, not their time steps"
                )
        # Checked here as well as where it is used, so that a wrong value is an error of the call, not of its iterator.
        _chunking(preprocess_params.get("chunk_length_s"), preprocess_params.get("stride_length_s"))
        iterator: Iterator[Any] = super().get_iterator(
            NamedClips(inputs), num_workers, batch_size, preprocess_params, forward_params, postprocess_params
        )
        return iterator

    def preprocess(
        self,
        inputs: Any,
        chunk_length_s: float | None = None,
        stride_length_s: float | Sequence[float] | None = None,
        timeout: float | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Read one clip and yield the model's input for each of its windows, holding two windows at a time.

        Args:
            inputs: A clip; the arguments are those of `__call__`.
            chunk_length_s: Seconds per window.
            stride_length_s: Seconds of context.
            timeout: Seconds for a download.

        Yields:
            What the feature extractor returns, and of the scored stretch `clip` (its name), `heard_from_s`, `start_s`,
            `end_s` and `is_last`.
        """
        clip = inputs if isinstance(inputs, NamedClip) else NamedClip("inputs", inputs)
        rate = self.feature_extractor.sampling_rate
        chunking = _chunking(chunk_length_s, stride_length_s)
        for stretch in read_stretches(clip, sampling_rate=rate, chunking=chunking, timeout_s=timeout):
            try:
                features = self.feature_extractor(stretch.samples, sampling_rate=rate, return_tensors="pt")
            except AudioError as error:
                raise AudioError(f"{clip.name}: {error}") from error
            if self.dtype is not None:
                features = features.to(dtype=self.dtype)
            stretch_info = {
                "heard_from_s": stretch.heard_from_s,
                "start_s": stretch.start_s,
                "end_s": stretch.end_s,
                "is_last": stretch.is_last,
            }
            yield {**features, "clip": clip.name, **stretch_info}

    def postprocess(
        self,
        model_outputs: list[dict[str, Any]],
        top_k: int | None = 5,
        function_to_apply: str | None = None,
        return_timestamps: bool = False,
    ) -> Any:
        """Turn the logits of a clip's windows into labels; arguments and result are those of `__call__`.

        Args:
            model_outputs: For each window `logits` `(1, labels)`, `clip`, `heard_from_s`, `start_s` and `end_s`, and
                `framewise_logits` `(1, steps, labels)` of models that score time steps.
            top_k: Number of labels.
            function_to_apply: From logits to scores.
            return_timestamps: Whether to return the timeline too.
        """
        logits = torch.cat([output["logits"] for output in model_outputs]).float()
        if not torch.isfinite(logits).all():
            raise CheckpointError(
                f"the model {self.model.name_or_path!r} gives NaN or infinite scores for {model_outputs[0]['clip']}: "
                f"its weights are damaged, or {self.dtype} is too small for it; check them or use dtype=float32"
            )
        function = function_to_apply or self._default_function()
        scores = _apply(function, logits)
        stretches = [(output["start_s"], output["end_s"]) for output in model_outputs]
        mean = average_over_time(scores, [end - start for start, end in stretches])
        labels = self._best_labels(mean, top_k)
        if not return_timestamps:
            return labels
        timed = (
            zip(stretches, scores, strict=True)
            if self.seconds_per_step is None
            else self._steps(model_outputs, function)
        )
        timeline = [{"timestamp": stretch, "labels": self._best_labels(row, top_k)} for stretch, row in timed]
        return {"labels": labels, "timeline": timeline}

    @property
    def seconds_per_step(self) -> float | None:
        """Length of the time steps that the model scores; None if it scores whole clips alone."""
        if not getattr(self.model, "scores_time_steps", False):
            return None
        return float(self.model.config.frames_per_step / self.feature_extractor.frames_per_second)

    def _steps(
        self, model_outputs: list[dict[str, Any]], function: str
    ) -> Iterator[tuple[tuple[float, float], torch.Tensor]]:
        """The scores of a clip's time steps, window after window."""
        assert self.seconds_per_step is not None
        for output in model_outputs:
            scores = _apply(function, output["framewise_logits"][0].float())
            place = (output["heard_from_s"], output["start_s"], output["end_s"])
            yield from steps_within(scores, self.seconds_per_step, *place)

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        names = ("clip", "heard_from_s", "start_s", "end_s", "is_last")
        info = {name: model_inputs.pop(name) for name in names}
        outputs = self.model(**model_inputs)
        if self.seconds_per_step is not None:
            info["framewise_logits"] = outputs.framewise_logits
        return {"logits": outputs.logits, **info}

    def _sanitize_parameters(self, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        known = (*_PREPROCESS_ARGUMENTS, *_POSTPROCESS_ARGUMENTS)
        for name, value in arguments.items():
            if name in known:
                _check_argument(name, value)
            elif name not in _FACTORY_ARGUMENTS:
                similar = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {similar[0]}?" if similar else f"known are {', '.join(known)}"
                raise UsageError(f"the audio classification pipeline has no argument {name!r}; {hint}")
        preprocess = {name: arguments[name] for name in _PREPROCESS_ARGUMENTS if name in arguments}
        postprocess = {name: arguments[name] for name in _POSTPROCESS_ARGUMENTS if name in arguments}
        return preprocess, {}, postprocess

    def _default_function(self) -> str:
        by_problem = {"regression": "none", "multi_label_classification": "sigmoid"}
        return by_problem.get(self.model.config.problem_type, "softmax")

    def _best_labels(self, scores: torch.Tensor, top_k: int | None) -> list[dict[str, Any]]:
        values, indices = scores.topk(len(scores) if top_k is None else min(top_k, len(scores)))
        names = self.model.config.id2label
        return [
            {"score": score, "label": names[index]}
            for score, index in zip(values.tolist(), indices.tolist(), strict=True)
        ]


def _apply(function: str, logits: torch.Tensor) -> torch.Tensor:
    if function == "softmax":
        return logits.softmax(dim=-1)
    return logits.sigmoid() if function == "sigmoid" else logits


def _chunking(chunk_length_s: Any, stride_length_s: Any) -> Chunking | None:
    return None if chunk_length_s is None else Chunking.from_arguments(chunk_length_s, stride_length_s)


def _is_waveform(clips: Sequence[Any]) -> bool:
    """Whether a sequence is one clip as a list of numbers; no list of clips can be that."""
    return len(clips) > 0 and all(isinstance(value, numbers.Real) for value in clips)


def _check_count(name: str, value: Any, *, least: int) -> None:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name} must be a whole number, {least} or more, not {value!r}")


def _check_argument(name: str, value: Any) -> None:
    """Check what can be checked without the other arguments; `chunk_length_s` and `stride_length_s` need each other."""
    if name == "top_k" and value is not None:
        _check_count(name, value, least=1)
    elif name == "function_to_apply" and value not in (None, *_FUNCTIONS):
        raise UsageError(f"Invalid value for `function_to_apply`: {value!r}. Valid options are {list(_FUNCTIONS)}")
    elif name == "return_timestamps" and not isinstance(value, bool | None):
        raise UsageError(f"return_timestamps must be True or False, not {value!r}")
    elif name == "timeout" and value is not None:
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value <= 0:
            raise UsageError(f"timeout must be a number of seconds above 0, not {value!r}")
