"""Vector operations on a window of an image, as LLVM vector code. Import only where Numba is installed.

Rows of an atom are mostly 4 to 36 numbers long: too short for the compiler's own vectoriser, which unrolls four times
and leaves the rest to a scalar loop. An image is a flat array whose rows are ``pitch`` numbers apart; an atom is ``h``
rows of ``span`` numbers from ``base`` on, ``span`` a multiple of ``LANES``. All integers are uint64.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.base import BaseContext
from numba.extending import intrinsic

# Numbers in a vector; the compiler splits or joins them to what the processor has.
LANES = 8
# Rows of a window that a dot product takes at once: sums that do not wait for each other.
ROWS = 4
_INT, _LANE = ir.IntType(64), ir.IntType(32)
_FUSE = ["contract"]


@intrinsic
def window_dot(
    typing: Any,
    image: types.Array,
    start: types.Integer,
    pitch: types.Integer,
    atoms: types.Array,
    base: types.Integer,
    h: types.Integer,
    span: types.Integer,
) -> tuple[Any, Callable]:
    """``<image window at start, atom at base>``; ``h`` a multiple of ``ROWS``."""
    scalar = image.dtype
    signature = scalar(image, start, pitch, atoms, base, h, span)

    def codegen(context: BaseContext, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        image, start, pitch, atoms, base, h, span = arguments
        vector, align = _vector(context, scalar)
        image, atoms = (_data(context, builder, signature.args[k], arguments[k]) for k in (0, 3))
        zero = ir.Constant(vector, [0.0] * LANES)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(ROWS)]
        with cgutils.for_range(builder, builder.udiv(h, _INT(ROWS))) as rows:
            top = builder.mul(rows.index, _INT(ROWS))
            with cgutils.for_range(builder, builder.udiv(span, _INT(LANES))) as lanes:
                right = builder.mul(lanes.index, _INT(LANES))
                for n, total in enumerate(sums):
                    row = builder.add(top, _INT(n))
                    pixels = _at(builder, image, start, builder.mul(row, pitch), right, vector)
                    taps = _at(builder, atoms, base, builder.mul(row, span), right, vector)
                    product = builder.fmul(
                        builder.load(pixels, align=align), builder.load(taps, align=align), flags=_FUSE
                    )
                    builder.store(builder.fadd(builder.load(total), product, flags=_FUSE), total)
        total = _halved(builder, [builder.load(total) for total in sums])
        return _halved(builder, [builder.extract_element(total, _LANE(k)) for k in range(LANES)])

    return signature, codegen


@intrinsic
def window_add(
    typing: Any,
    image: types.Array,
    start: types.Integer,
    pitch: types.Integer,
    atoms: types.Array,
    base: types.Integer,
    h: types.Integer,
    span: types.Integer,
    factor: types.Float,
) -> tuple[Any, Callable]:
    """Add ``factor`` times the atom at base to the window of the image at start."""
    return types.void(image, start, pitch, atoms, base, h, span, factor), _add


@intrinsic
def window_add_weighted(
    typing: Any,
    image: types.Array,
    start: types.Integer,
    pitch: types.Integer,
    atoms: types.Array,
    base: types.Integer,
    h: types.Integer,
    span: types.Integer,
    factor: types.Float,
    weights: types.Array,
) -> tuple[Any, Callable]:
    """:func:`window_add` with the atom multiplied by the window of ``weights``, laid out as the image is."""
    return types.void(image, start, pitch, atoms, base, h, span, factor, weights), _add


def _add(context: BaseContext, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
    _, start, pitch, _, base, h, span, factor = arguments[:8]
    vector, align = _vector(context, signature.args[0].dtype)
    arrays = (0, 3) if len(arguments) == 8 else (0, 3, 8)
    image, atoms, *weights = (_data(context, builder, signature.args[k], arguments[k]) for k in arrays)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, factor, _LANE(0))
    factors = builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_LANE, LANES), [0] * LANES))
    steps = builder.udiv(span, _INT(LANES))
    with cgutils.for_range(builder, h) as rows, cgutils.for_range(builder, steps) as lanes:
        right, down = builder.mul(lanes.index, _INT(LANES)), builder.mul(rows.index, pitch)
        pixels = _at(builder, image, start, down, right, vector)
        taps = builder.load(_at(builder, atoms, base, builder.mul(rows.index, span), right, vector), align=align)
        for each in weights:
            taps = builder.fmul(taps, builder.load(_at(builder, each, start, down, right, vector), align=align))
        product = builder.fmul(factors, taps, flags=_FUSE)
        total = builder.fadd(builder.load(pixels, align=align), product, flags=_FUSE)
        builder.store(total, pixels, align=align)
    return context.get_dummy_value()


def _vector(context: BaseContext, scalar: types.Type) -> tuple[ir.VectorType, int]:
    element = context.get_data_type(scalar)
    return ir.VectorType(element, LANES), context.get_abi_sizeof(element)


def _data(context: BaseContext, builder: ir.IRBuilder, kind: types.Array, array: ir.Value) -> ir.Value:
    return cgutils.create_struct_proxy(kind)(context, builder, array).data


def _at(
    builder: ir.IRBuilder, data: ir.Value, start: ir.Value, down: ir.Value, right: ir.Value, vector: ir.VectorType
) -> ir.Value:
    place = builder.gep(data, [builder.add(builder.add(start, down), right)])
    return builder.bitcast(place, vector.as_pointer())


def _halved(builder: ir.IRBuilder, values: list[ir.Value]) -> ir.Value:
    while len(values) > 1:
        half = len(values) // 2
        values = [builder.fadd(values[k], values[k + half]) for k in range(half)]
    return values[0]
