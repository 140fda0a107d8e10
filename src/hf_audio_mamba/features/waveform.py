"""One door for audio in any of the shapes in which Python code hands it around."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hf_audio_mamba.errors import AudioError
from hf_audio_mamba.features.audio_io import load_audio
from hf_audio_mamba.features.samples import Float32Array, check_sampling_rate, resample, to_mono_float32


def as_waveform(audio: Any, *, sampling_rate: int, source_rate: int | None = None, name: str = "audio") -> Float32Array:
    """Bring audio of any kind to mono float32 at one sampling rate.

    Accepted are numpy arrays, torch tensors (any device, any float or PCM dtype), lists of numbers or of
    channels, paths and bytes of audio files, decoders of torchcodec (anything with `get_all_samples()`), and
    dicts with `array` or `raw` and `sampling_rate`, or with `bytes` or `path`, as `datasets` and `pipeline()`
    use them.

    Args:
        audio: The clip; see `samples.to_mono_float32` for axes, dtypes and scales.
        sampling_rate: Rate of the result, in Hz.
        source_rate: Rate of an array, tensor or list, in Hz; `None` means that it already has
            `sampling_rate`. Dicts, files and decoders carry their own, which must not contradict it.
        name: What to call this clip in messages.

    Returns:
        `(samples,)`, finite.

    Raises:
        AudioError: If it is no audio or cannot be used; the message names the clip and the way out.
    """
    target = check_sampling_rate(sampling_rate)
    stated = None if source_rate is None else check_sampling_rate(source_rate, f"source_rate of {name}")
    if isinstance(audio, (str, os.PathLike, bytes, bytearray, memoryview)):
        return load_audio(audio, sampling_rate=target)[0]
    if hasattr(audio, "get_all_samples"):
        return _from_decoder(audio, target, name)
    if isinstance(audio, Mapping):
        return _from_mapping(audio, target, stated, name)
    samples = to_mono_float32(_to_numpy(audio, name), name=name)
    return resample(samples, stated or target, target)


def _from_decoder(decoder: Any, target: int, name: str) -> Float32Array:
    """Decode with torchcodec's `AudioDecoder`, whose samples are `(channels, samples)`."""
    try:
        decoded = decoder.get_all_samples()
    except (RuntimeError, ValueError, OSError) as error:
        raise AudioError(f"{name} cannot be decoded by {type(decoder).__name__}: {error}") from error
    rate = check_sampling_rate(decoded.sample_rate, f"sample_rate of {name}")
    samples = _to_numpy(decoded.data, name)
    return resample(to_mono_float32(samples, name=name, channels_axis=0), rate, target)


def _from_mapping(audio: Mapping[Any, Any], target: int, stated: int | None, name: str) -> Float32Array:
    """Take `array` or `raw` with its rate, or the file in `bytes` or `path`, in this order."""
    for key in ("array", "raw"):
        if audio.get(key) is not None:
            if "sampling_rate" not in audio and stated is None:
                raise AudioError(f"{name} has {key!r} but no 'sampling_rate'; add its rate in Hz to the dict")
            rate = check_sampling_rate(audio.get("sampling_rate", stated), f"'sampling_rate' of {name}")
            if stated not in (None, rate):
                raise AudioError(f"{name} has sampling_rate {rate} Hz, but source_rate says {stated} Hz")
            return resample(to_mono_float32(_to_numpy(audio[key], name), name=name), rate, target)
    for key in ("bytes", "path"):
        if audio.get(key) is not None:
            return load_audio(audio[key], sampling_rate=target)[0]
    keys = ", ".join(map(repr, audio)) or "nothing"
    raise AudioError(
        f"{name} is a dict with {keys}; it needs 'array' or 'raw' with 'sampling_rate', or 'bytes' or 'path'"
    )


def _to_numpy(audio: Any, name: str) -> npt.NDArray[Any]:
    """Convert tensors, lists and array-likes; ragged or non-numeric ones are an error."""
    if isinstance(audio, np.ndarray):
        return audio
    if isinstance(audio, torch.Tensor):
        return _tensor_to_numpy(audio, name)
    if not isinstance(audio, Sequence) and not hasattr(audio, "__array__"):
        raise AudioError(
            f"{name} is of type {type(audio).__name__}; give an array, tensor, list, path, bytes, dict or AudioDecoder"
        )
    try:
        return np.asarray(audio)
    except (ValueError, TypeError, OverflowError) as error:
        raise AudioError(f"{name} is not a regular array of numbers ({error}); all channels need one length") from error


def _tensor_to_numpy(audio: torch.Tensor, name: str) -> npt.NDArray[Any]:
    """Bring a tensor to the CPU; bfloat16, which numpy lacks, becomes float32."""
    try:
        tensor = audio.detach().cpu()
        array: npt.NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:  # sparse, quantised and meta tensors
        raise AudioError(f"{name} is a tensor that cannot be read as samples: {error}") from error
    return array
