"""Vector code for numba kernels that work on a tile of tokens with features as rows: tokens side by side in the lanes.

In this layout a weight matrix is read as it lies in memory, one number at a time for all tokens of a tile, and widths
need not be multiples of anything.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from hf_audio_mamba.ops.numba_intrinsics import BYTES, LANES, float_vector

TILE_VECTORS = 4
TOKENS = TILE_VECTORS * LANES
"""Tokens of a tile."""
ROW_BYTES = 4 * TOKENS
ROWS_AT_ONCE = 6
"""Rows of a weight that are multiplied at once, each in registers of its own."""

_FLOAT = ir.FloatType()
_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_INT_VECTOR = ir.VectorType(_INT32, LANES)

# erf(x / sqrt(2)) = x (c0 + c1 u + ...) with u = 2 x^2 / LIMIT^2 - 1 on |x| <= LIMIT: absolute error 3.2e-7.
_ERF_LIMIT = 5.4
_ERF = (
    0.26185622765280536,
    -0.13065596687462702,
    0.09699880373182451,
    -0.07841864944306393,
    0.06424205944336779,
    -0.05144365662315915,
    0.03921757374345396,
    -0.028129657959290334,
    0.019573516535347987,
    -0.013030392324296734,
    0.0068160872152200494,
    -0.002746589948561004,
    0.0021985772517776176,
    -0.0019240313963364715,
    0.0006312761557008002,
)


def _vectors_at_once() -> int:
    """Vectors of tokens whose products with `ROWS_AT_ONCE` rows fit into the registers of the target processor."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return TILE_VECTORS if "+avx512f" in features.split(",") else 1


VECTORS_AT_ONCE = _vectors_at_once()


def _integer(value: int) -> ir.Constant:
    return ir.Constant(_INT64, value)


def _fill(value: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [value] * LANES)


def _pointer(builder: ir.IRBuilder, address: ir.Value, pointee: ir.Type, offset: int = 0) -> ir.Value:
    if offset:
        address = builder.add(address, _integer(offset))
    return builder.inttoptr(address, ir.PointerType(pointee))


def _splat(builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    lane0 = builder.insert_element(undefined, scalar, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(lane0, undefined, ir.Constant(_INT_VECTOR, [0] * LANES))


def _call(builder: ir.IRBuilder, name: str, arguments: list[ir.Value]) -> ir.Value:
    function = ir.FunctionType(_VECTOR, [argument.type for argument in arguments])
    callee = builder.module.globals.get(name) or ir.Function(builder.module, function, name)
    return builder.call(callee, arguments)


def _fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return _call(builder, f"llvm.fmuladd.v{LANES}f32", [a, b, c])


def _emit_products(builder: ir.IRBuilder, rows: int, arguments: tuple[ir.Value, ...]) -> None:
    """out[r, :] += sum over k of weight[r, k] x[k, :], all sums in registers; depth is at least 1."""
    weight, weight_step, x, depth, out = arguments
    width = VECTORS_AT_ONCE
    places = [(row, vector) for row in range(rows) for vector in range(width)]
    sums = {
        (row, vector): builder.load(_pointer(builder, out, _VECTOR, row * ROW_BYTES + vector * BYTES), align=4)
        for row, vector in places
    }
    rows_of_weight = [builder.add(weight, builder.mul(weight_step, _integer(row))) for row in range(rows)]
    before = builder.basic_block
    loop, after = builder.append_basic_block("products"), builder.append_basic_block("products.done")
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(_INT64)
    index.add_incoming(_integer(0), before)
    totals = {}
    for place in places:
        totals[place] = builder.phi(_VECTOR)
        totals[place].add_incoming(sums[place], before)
    source = builder.add(x, builder.mul(index, _integer(ROW_BYTES)))
    values = [builder.load(_pointer(builder, source, _VECTOR, vector * BYTES), align=4) for vector in range(width)]
    offset = builder.mul(index, _integer(4))
    for row in range(rows):
        number = builder.load(_pointer(builder, builder.add(rows_of_weight[row], offset), _FLOAT), align=4)
        factor = _splat(builder, number)
        for vector in range(width):
            sums[row, vector] = _fma(builder, factor, values[vector], totals[row, vector])
    following = builder.add(index, _integer(1))
    index.add_incoming(following, loop)
    for place in places:
        totals[place].add_incoming(sums[place], loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
    builder.position_at_end(after)
    for row, vector in places:
        builder.store(sums[row, vector], _pointer(builder, out, _VECTOR, row * ROW_BYTES + vector * BYTES), align=4)


def _products(rows: int) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _emit_products(builder, rows, tuple(arguments))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@intrinsic
def add_products_of_6(typingctx: Any, weight: Any, weight_step: Any, x: Any, depth: Any, out: Any) -> Any:
    """Add to 6 rows of `out` the products of 6 rows of a weight with `x`, for `VECTORS_AT_ONCE` vectors of tokens.

    Args are addresses of float32 values and, in bytes, the way from one row of the weight to the next; `x` has `depth`
    rows.
    """
    return _products(ROWS_AT_ONCE)


@intrinsic
def add_products_of_2(typingctx: Any, weight: Any, weight_step: Any, x: Any, depth: Any, out: Any) -> Any:
    """The same for 2 rows."""
    return _products(2)


@intrinsic
def add_products_of_1(typingctx: Any, weight: Any, weight_step: Any, x: Any, depth: Any, out: Any) -> Any:
    """The same for 1 row."""
    return _products(1)


def _transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """A square of LANES vectors, turned in log2(LANES) rounds that exchange halves of pairs of rows."""
    step = 1
    while step < LANES:
        low = [lane if not lane & step else LANES + lane - step for lane in range(LANES)]
        high = [lane + step if not lane & step else LANES + lane for lane in range(LANES)]
        turned = list(rows)
        for first in range(LANES):
            if not first & step:
                pair = rows[first], rows[first + step]
                turned[first] = builder.shuffle_vector(*pair, ir.Constant(_INT_VECTOR, low))
                turned[first + step] = builder.shuffle_vector(*pair, ir.Constant(_INT_VECTOR, high))
        rows, step = turned, 2 * step
    return rows


@intrinsic
def transpose_square(typingctx: Any, source: Any, source_step: Any, target: Any, target_step: Any) -> Any:
    """Copy a square of LANES x LANES float32 values, rows to columns; steps from row to row are in bytes."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, source_step, target, target_step = arguments
        rows = []
        for _ in range(LANES):
            rows.append(builder.load(_pointer(builder, source, _VECTOR), align=4))
            source = builder.add(source, source_step)
        for row in _transposed(builder, rows):
            builder.store(row, _pointer(builder, target, _VECTOR), align=4)
            target = builder.add(target, target_step)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@intrinsic
def gelu(typingctx: Any, value: Any) -> Any:
    """X (1 + erf(x / sqrt(2))) / 2, absolute error 4e-7 or the rounding of the result, whichever is larger."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (x,) = arguments
        bounded = builder.select(builder.fcmp_ordered("<", x, _fill(-_ERF_LIMIT)), _fill(-_ERF_LIMIT), x)
        bounded = builder.select(builder.fcmp_ordered(">", bounded, _fill(_ERF_LIMIT)), _fill(_ERF_LIMIT), bounded)
        square = builder.fmul(bounded, bounded)
        u = _fma(builder, square, _fill(2 / _ERF_LIMIT**2), _fill(-1.0))
        series: ir.Value = _fill(_ERF[-1])
        for coefficient in _ERF[-2::-1]:
            series = _fma(builder, series, u, _fill(coefficient))
        erf = builder.fmul(series, bounded)
        # Exactly one beyond the limit: its last bit would be multiplied by any input.
        erf = builder.select(builder.fcmp_ordered("<=", x, _fill(-_ERF_LIMIT)), _fill(-1.0), erf)
        erf = builder.select(builder.fcmp_ordered(">=", x, _fill(_ERF_LIMIT)), _fill(1.0), erf)
        half = builder.fmul(x, _fill(0.5))
        return _fma(builder, half, erf, half)

    return float_vector(float_vector), codegen


@intrinsic
def reciprocal_root(typingctx: Any, value: Any) -> Any:
    """1 / sqrt(value)."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fdiv(_fill(1.0), _call(builder, f"llvm.sqrt.v{LANES}f32", [arguments[0]]))

    return float_vector(float_vector), codegen
