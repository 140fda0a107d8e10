"""Sample arrays: what counts as audio, how it becomes mono float32, and how its sampling rate is changed.

Everything that enters the package as samples goes through `to_mono_float32`, so that a NaN, a stray channel
axis or an integer scale is met here and not three modules later.
"""

import math
import numbers
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from hf_audio_mamba.errors import AudioError

Float32Array = npt.NDArray[np.float32]

MIN_SAMPLING_RATE = 1_000
MAX_SAMPLING_RATE = 768_000
MAX_CHANNELS = 32
# Above this the power spectrum of a few thousand samples leaves float32. Audio lies within ±1, raw PCM within ±2^31.
MAX_AMPLITUDE = 1e12
# -240 dB below full scale: inaudible, below every floor used here, and its square would be a denormal number,
# with which processors calculate up to a hundred times slower.
SILENCE_AMPLITUDE = 1e-12

# Full scale of integer PCM and the value of silence, as libsndfile reads them.
_PCM_SCALE: dict[str, tuple[float, float]] = {
    "int8": (0.0, 2.0**7),
    "uint8": (2.0**7, 2.0**7),
    "int16": (0.0, 2.0**15),
    "int32": (0.0, 2.0**31),
}


def check_sampling_rate(sampling_rate: Any, name: str = "sampling_rate") -> int:
    """Return a sampling rate in Hz as an int, or say what is wrong with it.

    Args:
        sampling_rate: Any integral number, numpy's included; 1,000 to 768,000 Hz.
        name: The argument or file to name in the message.

    Raises:
        AudioError: If it is missing, not a whole number, or out of range.
    """
    is_number = isinstance(sampling_rate, numbers.Real) and not isinstance(sampling_rate, (bool, np.bool_))
    if not is_number or not math.isfinite(sampling_rate) or float(sampling_rate) != int(sampling_rate):
        raise AudioError(
            f"{name} must be a whole number of Hz, for example 44100, but is {sampling_rate!r} "
            f"({type(sampling_rate).__name__})"
        )
    if not MIN_SAMPLING_RATE <= sampling_rate <= MAX_SAMPLING_RATE:
        raise AudioError(
            f"{name} is {sampling_rate} Hz; it must lie between {MIN_SAMPLING_RATE} and {MAX_SAMPLING_RATE} Hz"
        )
    return int(sampling_rate)


def check_seconds(seconds: Any, name: str) -> float:
    """Return a length of time in seconds, or say what is wrong with it.

    Raises:
        AudioError: If it is not a finite number above 0; the message names the argument.
    """
    is_number = isinstance(seconds, numbers.Real) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds < math.inf:
        raise AudioError(f"{name} must be a positive number of seconds, but is {seconds!r}")
    return float(seconds)


def to_mono_float32(
    samples: npt.NDArray[Any], *, name: str = "audio", channels_axis: int | None = None
) -> Float32Array:
    """Check an array of samples and bring it to mono float32.

    Integers are scaled as PCM (int8, int16, int32 to [-1, 1), uint8 around 128). 64-bit integers, which is what a list
    of Python ints becomes, have no PCM convention and are taken as they are. Values below -240 dBFS become 0.

    Args:
        samples: `(samples,)`, `(channels, samples)` or `(samples, channels)`. Of two axes the shorter one is
            taken for the channels (the first if they are equal) and averaged; at most 32 channels.
        name: The argument or file to name in messages.
        channels_axis: Axis of the channels where it is known.

    Returns:
        `(samples,)`, a new array or `samples` itself where nothing had to be changed.

    Raises:
        AudioError: If the array is empty, has another rank or dtype, or holds NaN, infinite or absurdly large
            values.
    """
    if samples.ndim not in (1, 2):
        raise AudioError(
            f"{name} has {samples.ndim} axes {samples.shape}; give one clip as (samples,) or (channels, samples)"
        )
    if samples.size == 0:
        raise AudioError(f"{name} is empty (shape {samples.shape}); give at least one sample")
    scaled = _to_float32(samples, name)
    mono = scaled if scaled.ndim == 1 else _mix_down(scaled, name, channels_axis)
    return check_amplitude(mono, name)


def check_amplitude(mono: Float32Array, name: str) -> Float32Array:
    """Refuse NaN, infinite and absurdly large samples and replace those below -240 dBFS by 0.

    Args:
        mono: `(samples,)`.
        name: The argument or file to name in messages.

    Raises:
        AudioError: With the number of offending samples and the place of the first.
    """
    magnitude = np.abs(mono)
    # One comparison finds all three, because NaN compares as false.
    if not bool((magnitude <= MAX_AMPLITUDE).all()):
        finite = np.isfinite(mono)
        if not finite.all():
            first = int(np.argmin(finite))
            raise AudioError(
                f"{name} holds {int((~finite).sum())} samples that are NaN or infinite, "
                f"the first at sample {first}; repair or drop this clip"
            )
        raise AudioError(
            f"{name} reaches {magnitude.max():.3g}, but float audio lies within ±1 and raw PCM within ±2^31; "
            "divide the samples by their full scale"
        )
    faint = (magnitude < SILENCE_AMPLITUDE) & (mono != 0)
    return np.where(faint, np.float32(0), mono) if faint.any() else mono


def resample(mono: Float32Array, source_rate: int, sampling_rate: int) -> Float32Array:
    """Change the sampling rate with soxr's high-quality sinc filter.

    Args:
        mono: `(samples,)` at `source_rate`.
        source_rate: In Hz.
        sampling_rate: Wanted, in Hz.

    Returns:
        About `samples * sampling_rate / source_rate` samples, at least one.
    """
    if source_rate == sampling_rate:
        return mono
    resampled: Float32Array = soxr.resample(mono, source_rate, sampling_rate, quality="HQ")
    # A clip of very few samples can be rounded away altogether.
    return resampled if resampled.size else mono[:1]


def _to_float32(samples: npt.NDArray[Any], name: str) -> Float32Array:
    """Scale PCM and convert; float64 beyond float32 becomes infinite and is refused by the caller."""
    dtype = samples.dtype
    if dtype.name in _PCM_SCALE:
        silence, full_scale = _PCM_SCALE[dtype.name]
        return ((samples.astype(np.float64) - silence) / full_scale).astype(np.float32)
    if dtype.kind == "f" or dtype.name == "int64":
        with np.errstate(over="ignore"):
            return samples.astype(np.float32, copy=False)
    raise AudioError(
        f"{name} has dtype {dtype}, which is not audio; give float samples within ±1 or int16, int32 or uint8 PCM"
    )


def _mix_down(samples: Float32Array, name: str, channels_axis: int | None) -> Float32Array:
    """Average the channels of a two-dimensional array."""
    if channels_axis is None:
        channels_axis = 0 if samples.shape[0] <= samples.shape[1] else 1
    if samples.shape[channels_axis] > MAX_CHANNELS:
        raise AudioError(
            f"{name} has shape {samples.shape}, which has no axis of at most {MAX_CHANNELS} channels; "
            "give one clip as (samples,) or (channels, samples)"
        )
    with np.errstate(invalid="ignore"):  # opposite infinities make NaN, which the caller refuses
        # In double precision, so that large samples cannot overflow in the sum.
        mixed: Float32Array = samples.mean(axis=channels_axis, dtype=np.float64).astype(np.float32)
    return mixed
