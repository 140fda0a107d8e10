"""Vectors of which only the first lanes lie in memory, for kernels that walk over runs of any length."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hf_audio_mamba.ops.numba_compile import kernel_part
from hf_audio_mamba.ops.numba_intrinsics import LANES, float_vector, load, store

_INT32 = ir.IntType(32)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_INT_VECTOR = ir.VectorType(_INT32, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)
_ALIGNMENT = ir.Constant(_INT32, 4)


def _first_lanes(builder: ir.IRBuilder, count: ir.Value) -> ir.Value:
    """The mask of lanes whose number is below `count`."""
    undefined = ir.Constant(_INT_VECTOR, ir.Undefined)
    lane0 = builder.insert_element(undefined, builder.trunc(count, _INT32), ir.Constant(_INT32, 0))
    counts = builder.shuffle_vector(lane0, undefined, ir.Constant(_INT_VECTOR, [0] * LANES))
    return builder.icmp_signed("<", ir.Constant(_INT_VECTOR, list(range(LANES))), counts)


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    function = ir.FunctionType(result, [argument.type for argument in arguments])
    callee = builder.module.globals.get(name) or ir.Function(builder.module, function, name)
    return builder.call(callee, arguments)


@intrinsic
def _load_masked(typingctx: Any, address: Any, count: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.PointerType(_VECTOR))
        mask = _first_lanes(builder, arguments[1])
        zeros = ir.Constant(_VECTOR, [0.0] * LANES)
        return _call(builder, f"llvm.masked.load.v{LANES}f32.p0", _VECTOR, [pointer, _ALIGNMENT, mask, zeros])

    return float_vector(types.int64, types.int64), codegen


@intrinsic
def _store_masked(typingctx: Any, address: Any, value: Any, count: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.PointerType(_VECTOR))
        mask = _first_lanes(builder, arguments[2])
        operands = [arguments[1], pointer, _ALIGNMENT, mask]
        _call(builder, f"llvm.masked.store.v{LANES}f32.p0", ir.VoidType(), operands)
        return context.get_dummy_value()

    return types.void(types.int64, float_vector, types.int64), codegen


# Whole vectors take the plain instructions: machines without masks do masked ones lane by lane.


@kernel_part
def load_first(address: int, count: int) -> Any:
    """Values of the first `count` lanes, or all if there are fewer lanes; zeros in the others, whose memory is left."""
    if count >= LANES:
        return load(address)
    return _load_masked(address, count)


@kernel_part
def store_first(address: int, value: Any, count: int) -> None:
    """Write the first `count` lanes, or all if there are fewer."""
    if count >= LANES:
        store(address, value)
    else:
        _store_masked(address, value, count)
