"""Fused numba kernel: samples to mel power, for transform lengths of twice an odd number such as 2646 = 2 · 3³ · 7².

FFT libraries are up to three times slower on such lengths than on powers of two, and what they return has to be read
again for the magnitude and the mel filters. Here `LANES` neighbouring frames go through window, transform and filters
side by side, one to a vector lane, in memory that fits into the cache of a core:

1. The samples under these frames are transposed once, so that one load fetches a sample of every frame, although the
   frames overlap.
2. A real transform of `n_fft` samples is a complex one of half the length over even and odd samples. It is done by
   Stockham passes of radix 7 and 3.
3. Each pair of bins is untangled, squared, and added to the two mel bands that it lies in.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from numba import njit

from hf_audio_mamba.features.spectrogram import SpectrogramSettings, clip_edges, hann_window, mel_filters
from hf_audio_mamba.ops.numba_blocks import scratch_memory
from hf_audio_mamba.ops.numba_compile import SOURCE_STAMP, Kernel
from hf_audio_mamba.ops.numba_intrinsics import (
    BYTES,
    LANES,
    broadcast,
    fma,
    load,
    load_scalar,
    splat,
    store,
    store_scalar,
)
from hf_audio_mamba.ops.numba_threads import run_items

Int64Array = npt.NDArray[np.int64]

_PAIR = 2 * BYTES  # a complex number of every lane: real parts, then imaginary parts
_SERIAL_BLOCKS = 8  # a block takes some 30 µs: below, starting threads costs more than it saves

_HALF = np.float32(0.5)
_SIN_3 = np.float32(np.sin(2 * np.pi / 3))
_COS_7 = tuple(np.float32(np.cos(2 * np.pi * k / 7)) for k in (1, 2, 3))
_SIN_7 = tuple(np.float32(np.sin(2 * np.pi * k / 7)) for k in (1, 2, 3))
_ZERO = np.float32(0)


class _Sizes(NamedTuple):
    """Sizes of a transform, as the kernel sees them."""

    length: int  # of the complex transform, n_fft / 2
    hop: int
    width: int  # columns of the transposed samples, a multiple of LANES
    bands: int
    radix7: int  # passes of radix 7 ...
    radix3: int  # ... and after them of radix 3


class _Tables(NamedTuple):
    """Addresses of float32 tables."""

    window: int  # (n_fft,)
    twiddles: int  # for each pass (columns, radix - 1, 2)
    rotation: int  # (length // 2 + 1, 2): cos and sin of 2π k / n_fft
    weights: int  # (length + 1, 2): of a bin in its band and in the next one


class MelPlan:
    """The tables for one choice of settings.

    Args:
        settings: Framing; `n_fft // 2` must have no other prime factors than 3 and 7.
        num_mel_bins: Mel bands.
        f_min: Lower edge of the lowest band in Hz.
        f_max: Upper edge of the highest band in Hz; None means half the sampling rate.
    """

    def __init__(
        self, settings: SpectrogramSettings, num_mel_bins: int, f_min: float = 0.0, f_max: float | None = None
    ) -> None:
        length = settings.n_fft // 2
        radix7, radix3 = _count_passes(length)
        columns = LANES + -(-settings.n_fft // settings.hop_length)
        self.settings = settings
        self.sizes = _Sizes(length, settings.hop_length, -(-columns // LANES) * LANES, num_mel_bins, radix7, radix3)
        angles = np.pi * np.arange(length // 2 + 1) / length
        weights, first_bands = _two_bands_a_bin(mel_filters(settings, num_mel_bins, f_min, f_max))
        self._arrays = (
            hann_window(settings).numpy().astype(np.float32),
            _twiddles(length, [7] * radix7 + [3] * radix3).astype(np.float32),
            np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32),
            # The untangling below leaves out a factor of 1/2, the square of which is caught up with here.
            (weights / 4).astype(np.float32),
        )
        self.first_bands = first_bands
        self.tables = _Tables(*(array.ctypes.data for array in self._arrays))


@lru_cache(maxsize=8)
def plan_for(
    settings: SpectrogramSettings, num_mel_bins: int, f_min: float = 0.0, f_max: float | None = None
) -> MelPlan | None:
    """Return the plan for these settings, or None where plain PyTorch has to serve."""
    if num_mel_bins < 2 or settings.n_fft < 6 or _count_passes(settings.n_fft // 2) == (0, 0):
        return None
    return MelPlan(settings, num_mel_bins, f_min, f_max)


def mel_power(waveform: torch.Tensor, plan: MelPlan) -> torch.Tensor:
    """Compute the mel power spectrogram of one clip, framed as in `spectrogram.power_chunks`.

    Uses as many threads as torch does; the result does not depend on their number.

    Args:
        waveform: `(samples,)`, float32, on the CPU.
        plan: Tables.

    Returns:
        `(frames, bands)`, float32.
    """
    sizes = plan.sizes
    frames = plan.settings.num_frames(waveform.shape[0])
    blocks = -(-frames // LANES)
    # The clip between its edges, and after them zeros as far as the last block reads.
    read = ((blocks - 1) * LANES + sizes.width) * sizes.hop
    left, right = clip_edges(waveform, plan.settings)
    rest = max(0, read - len(left) - len(waveform) - len(right))
    padded = torch.cat([left, waveform, right, waveform.new_zeros(rest)])
    mel = torch.empty(frames, sizes.bands)

    def task(first: int, last: int) -> None:
        _memory, scratch = scratch_memory(_scratch_bytes(sizes))
        addresses = padded.data_ptr(), mel.data_ptr()
        mel_blocks(sizes, plan.tables, plan.first_bands, *addresses, frames, scratch, first, last)

    run_items(task, blocks, serial=blocks < _SERIAL_BLOCKS)
    return mel


def _count_passes(length: int) -> tuple[int, int]:
    """How often 7 and 3 divide a length; (0, 0) if something else remains."""
    counts = []
    for radix in (7, 3):
        count = 0
        while length % radix == 0:
            length //= radix
            count += 1
        counts.append(count)
    return (counts[0], counts[1]) if length == 1 else (0, 0)


def _twiddles(length: int, radices: list[int]) -> npt.NDArray[np.float64]:
    """Factors of all passes one after the other: for each column and output but the first, real and imaginary."""
    tables = []
    for radix in radices:
        columns = length // radix
        turns = np.outer(np.arange(columns), np.arange(1, radix)) / length
        factors = np.exp(-2j * np.pi * turns)
        tables.append(np.stack([factors.real, factors.imag], axis=-1).ravel())
        length = columns
    return np.concatenate(tables)


def _two_bands_a_bin(filters: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], Int64Array]:
    """Triangular filters `(bins, bands)` as, for each bin, the first of two neighbouring bands and both weights."""
    first = np.minimum((filters > 0).argmax(axis=1), filters.shape[1] - 2)
    rows = np.arange(len(filters))
    return np.stack([filters[rows, first], filters[rows, first + 1]], axis=1), first


def _scratch_bytes(sizes: _Sizes) -> int:
    """Two transform buffers, the transposed samples, the bands."""
    return 2 * sizes.length * _PAIR + sizes.hop * sizes.width * 4 + sizes.bands * BYTES


@njit
def _transpose(sizes: _Sizes, samples: int, target: int) -> None:
    """(width, hop) samples to (hop, width)."""
    for column in range(sizes.width):
        source = samples + 4 * column * sizes.hop
        for row in range(sizes.hop):
            store_scalar(target + 4 * (row * sizes.width + column), load_scalar(source + 4 * row))


@njit
def _apply_window(sizes: _Sizes, window: int, source: int, target: int) -> None:
    """Windowed samples of every frame, one after the other: even ones are real parts, odd ones imaginary."""
    row = 0
    shift = 0
    for sample in range(2 * sizes.length):
        value = load(source + 4 * (row * sizes.width + shift))
        store(target + sample * BYTES, value * broadcast(window + 4 * sample))
        row += 1
        if row == sizes.hop:
            row = 0
            shift += 1


@njit
def _store_product(address: int, real: Any, imaginary: Any, factor: int) -> None:
    """Complex product with the factor at an address."""
    cosine = broadcast(factor)
    sine = broadcast(factor + 4)
    store(address, real * cosine - imaginary * sine)
    store(address + BYTES, fma(real, sine, imaginary * cosine))


@njit
def _pass3(source: int, target: int, columns: int, stride: int, twiddles: int) -> None:
    """One Stockham pass of radix 3."""
    half, sine = splat(_HALF), splat(_SIN_3)
    step = columns * stride * _PAIR
    out = stride * _PAIR
    for column in range(columns):
        factor = twiddles + 16 * column
        for position in range(stride):
            x = source + (column * stride + position) * _PAIR
            y = target + (3 * column * stride + position) * _PAIR
            ar, ai = load(x), load(x + BYTES)
            br, bi = load(x + step), load(x + step + BYTES)
            cr, ci = load(x + 2 * step), load(x + 2 * step + BYTES)
            sr, si = br + cr, bi + ci
            dr, di = sine * (br - cr), sine * (bi - ci)
            er, ei = ar - half * sr, ai - half * si
            store(y, ar + sr)
            store(y + BYTES, ai + si)
            _store_product(y + out, er + di, ei - dr, factor)
            _store_product(y + 2 * out, er - di, ei + dr, factor + 8)


@njit
def _dot3(a: Any, x: Any, b: Any, y: Any, c: Any, z: Any) -> Any:
    return fma(a, x, fma(b, y, c * z))


@njit
def _pass7(source: int, target: int, columns: int, stride: int, twiddles: int) -> None:
    """One Stockham pass of radix 7: even and odd parts of opposite inputs, then three cosine and three sine sums."""
    c1, c2, c3 = splat(_COS_7[0]), splat(_COS_7[1]), splat(_COS_7[2])
    s1, s2, s3 = splat(_SIN_7[0]), splat(_SIN_7[1]), splat(_SIN_7[2])
    m1, m3 = splat(-_SIN_7[0]), splat(-_SIN_7[2])
    step = columns * stride * _PAIR
    out = stride * _PAIR
    for column in range(columns):
        factor = twiddles + 48 * column
        for position in range(stride):
            x = source + (column * stride + position) * _PAIR
            y = target + (7 * column * stride + position) * _PAIR
            x0r, x0i = load(x), load(x + BYTES)
            x1r, x1i = load(x + step), load(x + step + BYTES)
            x2r, x2i = load(x + 2 * step), load(x + 2 * step + BYTES)
            x3r, x3i = load(x + 3 * step), load(x + 3 * step + BYTES)
            x4r, x4i = load(x + 4 * step), load(x + 4 * step + BYTES)
            x5r, x5i = load(x + 5 * step), load(x + 5 * step + BYTES)
            x6r, x6i = load(x + 6 * step), load(x + 6 * step + BYTES)
            a1r, a1i, b1r, b1i = x1r + x6r, x1i + x6i, x1r - x6r, x1i - x6i
            a2r, a2i, b2r, b2i = x2r + x5r, x2i + x5i, x2r - x5r, x2i - x5i
            a3r, a3i, b3r, b3i = x3r + x4r, x3i + x4i, x3r - x4r, x3i - x4i
            store(y, x0r + a1r + a2r + a3r)
            store(y + BYTES, x0i + a1i + a2i + a3i)
            er, ei = x0r + _dot3(c1, a1r, c2, a2r, c3, a3r), x0i + _dot3(c1, a1i, c2, a2i, c3, a3i)
            fr, fi = _dot3(s1, b1r, s2, b2r, s3, b3r), _dot3(s1, b1i, s2, b2i, s3, b3i)
            _store_product(y + out, er + fi, ei - fr, factor)
            _store_product(y + 6 * out, er - fi, ei + fr, factor + 40)
            er, ei = x0r + _dot3(c2, a1r, c3, a2r, c1, a3r), x0i + _dot3(c2, a1i, c3, a2i, c1, a3i)
            fr, fi = _dot3(s2, b1r, m3, b2r, m1, b3r), _dot3(s2, b1i, m3, b2i, m1, b3i)
            _store_product(y + 2 * out, er + fi, ei - fr, factor + 8)
            _store_product(y + 5 * out, er - fi, ei + fr, factor + 32)
            er, ei = x0r + _dot3(c3, a1r, c1, a2r, c2, a3r), x0i + _dot3(c3, a1i, c1, a2i, c2, a3i)
            fr, fi = _dot3(s3, b1r, m1, b2r, s2, b3r), _dot3(s3, b1i, m1, b2i, s2, b3i)
            _store_product(y + 3 * out, er + fi, ei - fr, factor + 16)
            _store_product(y + 4 * out, er - fi, ei + fr, factor + 24)


@njit
def _transform(sizes: _Sizes, twiddles: int, source: int, target: int) -> int:
    """Complex transform; returns the address of the result, which is one of the two buffers."""
    columns = sizes.length
    stride = 1
    for index in range(sizes.radix7 + sizes.radix3):
        radix = 7 if index < sizes.radix7 else 3
        columns //= radix
        if radix == 7:
            _pass7(source, target, columns, stride, twiddles)
        else:
            _pass3(source, target, columns, stride, twiddles)
        twiddles += 8 * columns * (radix - 1)
        stride *= radix
        source, target = target, source
    return source


@njit
def _add_bin(weights: int, band: int, power: Any) -> None:
    """Add a bin's power to its band and the next one."""
    store(band, fma(power, broadcast(weights), load(band)))
    store(band + BYTES, fma(power, broadcast(weights + 4), load(band + BYTES)))


@njit
def _add_powers(sizes: _Sizes, tables: _Tables, first_bands: Int64Array, spectrum: int, bands: int) -> None:
    """Untangle the transform of even and odd samples and add all bins, times four, to the bands."""
    zero = splat(_ZERO)
    for band in range(sizes.bands):
        store(bands + band * BYTES, zero)
    real, imaginary = load(spectrum), load(spectrum + BYTES)
    low, high = real + imaginary, real - imaginary
    low, high = low + low, high + high
    last = sizes.length
    _add_bin(tables.weights, bands + first_bands[0] * BYTES, low * low)
    _add_bin(tables.weights + 8 * last, bands + first_bands[last] * BYTES, high * high)
    for index in range(1, sizes.length // 2 + 1):
        a = spectrum + index * _PAIR
        mirror = sizes.length - index
        b = spectrum + mirror * _PAIR
        ar, ai, br, bi = load(a), load(a + BYTES), load(b), load(b + BYTES)
        even_r, even_i = ar + br, ai - bi
        odd_r, odd_i = ai + bi, br - ar
        cosine = broadcast(tables.rotation + 8 * index)
        sine = broadcast(tables.rotation + 8 * index + 4)
        turned_r = fma(odd_r, cosine, odd_i * sine)
        turned_i = odd_i * cosine - odd_r * sine
        sum_r, sum_i = even_r + turned_r, even_i + turned_i
        difference_r, difference_i = even_r - turned_r, even_i - turned_i
        power = fma(sum_r, sum_r, sum_i * sum_i)
        _add_bin(tables.weights + 8 * index, bands + first_bands[index] * BYTES, power)
        power = fma(difference_r, difference_r, difference_i * difference_i)
        _add_bin(tables.weights + 8 * mirror, bands + first_bands[mirror] * BYTES, power)


def _build(stamp: int) -> Kernel:
    """The compiled entry point; see `numba_compile._source_stamp` for why it is made in a function."""

    @Kernel
    def mel_blocks(
        sizes: _Sizes,
        tables: _Tables,
        first_bands: Int64Array,
        samples: int,
        mel: int,
        frames: int,
        scratch: int,
        first: int,
        last: int,
    ) -> None:
        """Mel power of the blocks of frames from first up to but not including last."""
        if stamp == 0:
            return
        buffer = scratch + sizes.length * _PAIR
        bands = buffer + sizes.length * _PAIR
        columns = bands + sizes.bands * BYTES
        for block in range(first, last):
            frame = block * LANES
            _transpose(sizes, samples + 4 * frame * sizes.hop, columns)
            _apply_window(sizes, tables.window, columns, scratch)
            spectrum = _transform(sizes, tables.twiddles, scratch, buffer)
            _add_powers(sizes, tables, first_bands, spectrum, bands)
            for lane in range(min(LANES, frames - frame)):
                target = mel + 4 * (frame + lane) * sizes.bands
                for band in range(sizes.bands):
                    store_scalar(target + 4 * band, load_scalar(bands + band * BYTES + 4 * lane))

    return mel_blocks


mel_blocks = _build(SOURCE_STAMP)
