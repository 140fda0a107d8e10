"""Vector functions of the numba kernels against float64."""

import numpy as np
from numba import njit

from hf_audio_mamba.ops.numba_intrinsics import (
    BYTES,
    LANES,
    broadcast,
    copy_float,
    copy_floats,
    exp2,
    exp2_clamped,
    fma,
    larger_magnitude,
    load,
    load_scalar,
    max_lanes,
    prefetch,
    sigmoid,
    softplus,
    splat,
    store,
    store_scalar,
    sum_lanes,
)


@njit
def _exp2(target, source):
    store(target, exp2(load(source)))


@njit
def _exp2_clamped(target, source):
    store(target, exp2_clamped(load(source)))


@njit
def _sigmoid(target, source):
    store(target, sigmoid(load(source)))


@njit
def _softplus(target, source):
    store(target, softplus(load(source)))


def _apply(function, values) -> np.ndarray:
    """A vector function on any number of values."""
    count = len(values)
    source = np.zeros(-(-count // LANES) * LANES, np.float32)
    source[:count] = values
    target = np.empty_like(source)
    for start in range(0, 4 * len(source), BYTES):
        function(target.ctypes.data + start, source.ctypes.data + start)
    return target[:count]


def _relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.max(np.abs(actual / expected - 1)))


def test_exp2_is_accurate():
    values = np.linspace(-125.9, 125.9, 20_011).astype(np.float32)
    expected = 2 ** values.astype(np.float64)
    assert _relative_error(_apply(_exp2, values), expected) < 2e-7
    assert np.array_equal(_apply(_exp2_clamped, values), _apply(_exp2, values))


def test_exp2_of_whole_numbers_is_exact():
    values = np.arange(-125, 126, dtype=np.float32)
    assert np.array_equal(_apply(_exp2, values), 2.0**values)


def test_clamped_exp2_ends_in_zero_and_infinity():
    values = [-127, -128, -1e4, -1e30, -np.inf, 128, 1e4, np.inf, np.nan]
    expected = [0, 0, 0, 0, 0, np.inf, np.inf, np.inf, np.nan]
    np.testing.assert_array_equal(_apply(_exp2_clamped, values), np.array(expected, np.float32))
    between = _apply(_exp2_clamped, np.linspace(-127, -126, 999))
    assert ((between >= 0) & (between < 2.5e-38)).all()


def test_sigmoid_is_accurate():
    values = np.linspace(-80, 80, 20_011).astype(np.float32)
    expected = 1 / (1 + np.exp(-values.astype(np.float64)))
    # exp rounds its argument: the error grows with its size.
    assert np.max(np.abs(_apply(_sigmoid, values) / expected - 1) / (1 + np.abs(values))) < 2e-7
    assert _apply(_sigmoid, [-np.inf, -1e4, 1e4, np.inf]).tolist() == [0, 0, 1, 1]
    assert np.isnan(_apply(_sigmoid, [np.nan])).all()


def test_softplus_is_accurate():
    values = np.linspace(-80, 80, 20_011).astype(np.float32)
    expected = np.logaddexp(0, values.astype(np.float64))
    assert np.max(np.abs(_apply(_softplus, values) / expected - 1) / (1 + np.maximum(-values, 0))) < 3e-7
    assert _apply(_softplus, [-np.inf, 1e4, np.inf]).tolist() == [0, 1e4, np.inf]
    assert np.isnan(_apply(_softplus, [np.nan])).all()


@njit
def _arithmetic(target, a, b):
    prefetch(a + 4096)
    x, y = load(a), load(b)
    store(target, fma(x, y, broadcast(a + 4)))
    store(target + BYTES, x + y * splat(np.float32(3)) - larger_magnitude(x, y))
    store_scalar(target + 2 * BYTES, sum_lanes(x))
    store_scalar(target + 2 * BYTES + 4, max_lanes(x))
    store_scalar(target + 2 * BYTES + 8, load_scalar(b + 8))


def test_arithmetic_on_unaligned_vectors():
    draw = np.random.default_rng(0)
    memory = draw.standard_normal(3 * LANES).astype(np.float32)
    x, y = memory[1 : 1 + LANES], memory[LANES + 1 : 2 * LANES + 1]
    target = np.zeros(3 * LANES, np.float32)
    _arithmetic(target.ctypes.data, x.ctypes.data, y.ctypes.data)
    product = x.astype(np.float64) * y + x[1]
    np.testing.assert_allclose(target[:LANES], product, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(target[LANES : 2 * LANES], x + 3 * y - np.maximum(np.abs(x), y), rtol=1e-6)
    np.testing.assert_allclose(target[2 * LANES : 2 * LANES + 3], [x.sum(), x.max(), y[2]], rtol=1e-5)


@njit
def _copies(target, source):
    copy_floats(target, source, 3)
    copy_float(target + 16, source + 16)


def test_copies_stop_where_they_should():
    source, target = np.arange(1, 9, dtype=np.float32), np.zeros(8, np.float32)
    _copies(target.ctypes.data, source.ctypes.data)
    assert target.tolist() == [1, 2, 3, 0, 5, 0, 0, 0]
