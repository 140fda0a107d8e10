"""Vectors of float32 lanes for numba kernels, written as explicit LLVM vector IR.

LLVM splits a vector that is wider than the machine's registers, so one source serves AVX-512, AVX2, SSE and NEON.
Addresses are plain integers in bytes.

All intrinsics are module-level names: numba's disk cache silently misses when a kernel refers to them by closure.
No fast-math flags are set, as they would remove the rounding by a magic number in `exp2`.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing import signature as typing_signature
from numba.core.typing.templates import ConcreteTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 16  # one cache line; faster than 8 even where a vector takes two (AVX2) or four (SSE) registers
BYTES = 4 * LANES

_FLOAT = ir.FloatType()
_INT32 = ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_INT_VECTOR = ir.VectorType(_INT32, LANES)

_ROUNDING = 1.5 * 2.0**23  # adding it leaves the nearest integer in the low mantissa bits
_LOG2_E = 1.4426950408889634
# 2^f = 1 + f (c1 + c2 f + ...) on [-1/2, 1/2]: minimax of the relative error, 9.1e-8.
_EXP2 = (0.6931470036506653, 0.24022242426872253, 0.05550733581185341, 0.009671512991189957, 0.001326472731307149)
# log1p(u) = u (c0 + c1 u + ...) on [0, 1]: minimax of the relative error, 3.0e-8.
_LOG1P = (
    0.9999999403953552,
    -0.4999949336051941,
    0.3331909775733948,
    -0.2484298199415207,
    0.19106006622314453,
    -0.13663244247436523,
    0.07822594046592712,
    -0.029505232349038124,
    0.005232692696154118,
)


class FloatVector(types.Type):
    """numba's type of one vector of `LANES` float32 values."""

    def __init__(self) -> None:
        super().__init__(name=f"FloatVector{LANES}")


float_vector = FloatVector()


@register_model(FloatVector)
class _FloatVectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, _VECTOR)


def _fill(value: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [value] * LANES)


def _fill_int(value: int) -> ir.Constant:
    return ir.Constant(_INT_VECTOR, [value] * LANES)


def _pointer(builder: ir.IRBuilder, address: ir.Value, pointee: ir.Type) -> ir.Value:
    return builder.inttoptr(address, ir.PointerType(pointee))


def _splat(builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
    lane0 = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), scalar, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(lane0, ir.Constant(_VECTOR, ir.Undefined), _fill_int(0))


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    function = ir.FunctionType(result, [argument.type for argument in arguments])
    module = builder.module
    callee = module.globals.get(name) or ir.Function(module, function, name)
    return builder.call(callee, arguments)


def _fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return _call(builder, f"llvm.fmuladd.v{LANES}f32", _VECTOR, [a, b, c])


def _maximum(builder: ir.IRBuilder, bound: ir.Value, value: ir.Value) -> ir.Value:
    """The larger one; `value` where it is NaN (one maxps)."""
    return builder.select(builder.fcmp_ordered(">", bound, value), bound, value)


def _minimum(builder: ir.IRBuilder, bound: ir.Value, value: ir.Value) -> ir.Value:
    """The smaller one; `value` where it is NaN (one minps)."""
    return builder.select(builder.fcmp_ordered("<", bound, value), bound, value)


def _absolute(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    bits = builder.and_(builder.bitcast(value, _INT_VECTOR), _fill_int(0x7FFFFFFF))
    return builder.bitcast(bits, _VECTOR)


def _exp2(builder: ir.IRBuilder, value: ir.Value, *, clamp: bool) -> ir.Value:
    """2^value: without `clamp` for |value| < 126; with it exact 0 from -127 down and inf from 128 up."""
    if clamp:
        value = _minimum(builder, _fill(128.0), _maximum(builder, _fill(-127.0), value))
    shifted = builder.fadd(value, _fill(_ROUNDING))
    fraction = builder.fsub(value, builder.fsub(shifted, _fill(_ROUNDING)))
    power: ir.Value = _fill(_EXP2[-1])
    for coefficient in (*_EXP2[-2::-1], 1.0):
        power = _fma(builder, power, fraction, _fill(coefficient))
    exponent = builder.shl(builder.bitcast(shifted, _INT_VECTOR), _fill_int(23))
    return builder.bitcast(builder.add(builder.bitcast(power, _INT_VECTOR), exponent), _VECTOR)


def _exp_of_minus_magnitude(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """exp(-|value|). LLVM computes it once for the sigmoid and the softplus of one value."""
    exponent = builder.fmul(_absolute(builder, value), _fill(-_LOG2_E))
    return _exp2(builder, _maximum(builder, _fill(-127.0), exponent), clamp=False)


def _vector_intrinsic(arity: int, emit: Callable[..., ir.Value]) -> Any:
    """The (signature, code generator) pair of an intrinsic from `arity` vectors to one."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return emit(builder, *arguments)

    return float_vector(*[float_vector] * arity), codegen


@intrinsic
def load(typingctx: Any, address: Any) -> Any:
    """`LANES` float32 values from an address of any alignment."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(builder, arguments[0], _VECTOR), align=4)

    return float_vector(types.int64), codegen


@intrinsic
def store(typingctx: Any, address: Any, value: Any) -> Any:
    """Write `LANES` float32 values to an address of any alignment."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], _pointer(builder, arguments[0], _VECTOR), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, float_vector), codegen


@intrinsic
def stream_store(typingctx: Any, address: Any, value: Any) -> Any:
    """Write `LANES` float32 values to an address on a cache line, past the caches."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        written = builder.store(arguments[1], _pointer(builder, arguments[0], _VECTOR), align=BYTES)
        written.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_INT32, 1)]))
        return context.get_dummy_value()

    return types.void(types.int64, float_vector), codegen


@intrinsic
def load_int(typingctx: Any, address: Any) -> Any:
    """One int64 value."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(builder, arguments[0], ir.IntType(64)), align=8)

    return types.int64(types.int64), codegen


@intrinsic
def load_scalar(typingctx: Any, address: Any) -> Any:
    """One float32 value."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(builder, arguments[0], _FLOAT), align=4)

    return types.float32(types.int64), codegen


@intrinsic
def store_scalar(typingctx: Any, address: Any, value: Any) -> Any:
    """Write one float32 value."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], _pointer(builder, arguments[0], _FLOAT), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), codegen


@intrinsic
def broadcast(typingctx: Any, address: Any) -> Any:
    """One float32 value from memory in every lane."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _splat(builder, builder.load(_pointer(builder, arguments[0], _FLOAT), align=4))

    return float_vector(types.int64), codegen


@intrinsic
def splat(typingctx: Any, value: Any) -> Any:
    """One float32 value in every lane."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _splat(builder, arguments[0])

    return float_vector(types.float32), codegen


@intrinsic
def copy_floats(typingctx: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy float32 values between places that do not overlap."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = (_pointer(builder, address, ir.IntType(8)) for address in arguments[:2])
        size = builder.mul(arguments[2], ir.Constant(ir.IntType(64), 4))
        _call(builder, "llvm.memcpy.p0.p0.i64", ir.VoidType(), [target, source, size, ir.Constant(ir.IntType(1), 0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def copy_float(typingctx: Any, target: Any, source: Any) -> Any:
    """Copy one float32 value; loops of such copies stay as they are, where LLVM would make much code of them."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = (_pointer(builder, address, ir.IntType(8)) for address in arguments)
        volatile = ir.Constant(ir.IntType(1), 1)
        size = ir.Constant(ir.IntType(64), 4)
        _call(builder, "llvm.memcpy.p0.p0.i64", ir.VoidType(), [target, source, size, volatile])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Ask for the cache line of an address, which need not be mapped."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(builder, arguments[0], ir.IntType(8))
        flags = [ir.Constant(_INT32, flag) for flag in (0, 3, 1)]  # read, keep in all levels, data
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, *flags])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """A * b + c, with one rounding where the processor has it."""
    return _vector_intrinsic(3, _fma)


@intrinsic
def larger_magnitude(typingctx: Any, value: Any, bound: Any) -> Any:
    """The larger of |value| and bound."""
    return _vector_intrinsic(2, lambda builder, v, bound: _maximum(builder, bound, _absolute(builder, v)))


@intrinsic
def exp2(typingctx: Any, value: Any) -> Any:
    """2^value for |value| < 126, relative error 1.6e-7."""
    return _vector_intrinsic(1, lambda builder, value: _exp2(builder, value, clamp=False))


@intrinsic
def exp2_clamped(typingctx: Any, value: Any) -> Any:
    """2^value for any value: exactly 0 from -127 down, inf from 128 up, NaN stays NaN."""
    return _vector_intrinsic(1, lambda builder, value: _exp2(builder, value, clamp=True))


@intrinsic
def sigmoid(typingctx: Any, value: Any) -> Any:
    """1 / (1 + exp(-value))."""

    def emit(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
        u = _exp_of_minus_magnitude(builder, value)
        is_negative = builder.fcmp_ordered("<", value, _fill(0.0))
        return builder.fdiv(builder.select(is_negative, u, _fill(1.0)), builder.fadd(_fill(1.0), u))

    return _vector_intrinsic(1, emit)


@intrinsic
def softplus(typingctx: Any, value: Any) -> Any:
    """log(1 + exp(value)) = max(value, 0) + log1p(exp(-|value|)), relative error about 2e-7."""

    def emit(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
        u = _exp_of_minus_magnitude(builder, value)
        series: ir.Value = _fill(_LOG1P[-1])
        for coefficient in _LOG1P[-2::-1]:
            series = _fma(builder, series, u, _fill(coefficient))
        return _fma(builder, series, u, _maximum(builder, _fill(0.0), value))

    return _vector_intrinsic(1, emit)


@intrinsic
def sum_lanes(typingctx: Any, value: Any) -> Any:
    """The sum over the lanes, by halves (one order on every machine)."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, width = arguments[0], LANES
        while width > 1:
            width //= 2
            lanes = [(lane + width) % LANES for lane in range(LANES)]
            order = ir.Constant(_INT_VECTOR, lanes)
            value = builder.fadd(value, builder.shuffle_vector(value, ir.Constant(_VECTOR, ir.Undefined), order))
        return builder.extract_element(value, ir.Constant(_INT32, 0))

    return types.float32(float_vector), codegen


@intrinsic
def max_lanes(typingctx: Any, value: Any) -> Any:
    """The largest lane."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        largest = builder.extract_element(arguments[0], ir.Constant(_INT32, 0))
        for lane in range(1, LANES):
            other = builder.extract_element(arguments[0], ir.Constant(_INT32, lane))
            largest = builder.select(builder.fcmp_ordered(">", largest, other), largest, other)
        return largest

    return types.float32(float_vector), codegen


class _VectorOperator(ConcreteTemplate):
    cases = (typing_signature(float_vector, float_vector, float_vector),)


def _register_operator(function: Callable[..., Any], instruction: str) -> None:
    """Let kernels write `a + b` for two vectors."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return getattr(builder, instruction)(*arguments)

    infer_global(function)(_VectorOperator)
    lower_builtin(function, FloatVector, FloatVector)(lower)


_register_operator(operator.add, "fadd")
_register_operator(operator.sub, "fsub")
_register_operator(operator.mul, "fmul")
