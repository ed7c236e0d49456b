"""Half floats in LLVM code, with bit operations where the processor has no conversion of its own.

Without the instruction LLVM would call a function of the compiler's run-time library, which a Python process need not
have.
"""

from llvmlite import ir

_I16, _I32, _HALF, _FLOAT = ir.IntType(16), ir.IntType(32), ir.HalfType(), ir.FloatType()


def has_conversions(context, module: ir.Module) -> bool:
    """Whether the processor that Numba compiles for converts halves itself."""
    return "+f16c" in context.codegen()._tm_features or module.triple.startswith(("aarch64", "arm64"))


def to_float(builder: ir.IRBuilder, bits: ir.Value, *, hardware: bool) -> ir.Value:
    """16-bit patterns (a scalar or a vector) as floats, exactly."""
    shape = _like(bits.type)
    if hardware:
        return builder.fpext(builder.bitcast(bits, shape(_HALF)), shape(_FLOAT))
    wide = builder.zext(bits, shape(_I32))
    magnitude = builder.shl(builder.and_(wide, _constant(shape(_I32), 0x7FFF)), _constant(shape(_I32), 13))
    value = builder.fmul(builder.bitcast(magnitude, shape(_FLOAT)), _constant(shape(_FLOAT), 2.0**112))
    special = builder.icmp_unsigned(">=", magnitude, _constant(shape(_I32), 0x7C00 << 13))
    bits32 = builder.bitcast(value, shape(_I32))
    bits32 = builder.select(special, builder.or_(magnitude, _constant(shape(_I32), 0x7F800000)), bits32)
    sign = builder.shl(builder.and_(wide, _constant(shape(_I32), 0x8000)), _constant(shape(_I32), 16))
    return builder.bitcast(builder.or_(bits32, sign), shape(_FLOAT))


def from_float(builder: ir.IRBuilder, value: ir.Value, *, hardware: bool) -> ir.Value:
    """Floats as 16-bit patterns, rounded to nearest even; too large becomes infinite."""
    shape = _like(value.type)
    if hardware:
        return builder.bitcast(builder.fptrunc(value, shape(_HALF)), shape(_I16))
    bits = builder.bitcast(value, shape(_I32))
    sign = builder.and_(builder.lshr(bits, _constant(shape(_I32), 16)), _constant(shape(_I32), 0x8000))
    magnitude = builder.and_(bits, _constant(shape(_I32), 0x7FFFFFFF))
    # normal: round the 13 bits that go, then move the exponent's bias from 127 to 15
    odd = builder.and_(builder.lshr(magnitude, _constant(shape(_I32), 13)), _constant(shape(_I32), 1))
    rounded = builder.add(builder.add(magnitude, odd), _constant(shape(_I32), 0xFFF - (112 << 23)))
    normal = builder.lshr(rounded, _constant(shape(_I32), 13))
    # subnormal: adding 0.5 leaves the rounded bits at the end of the mantissa
    half = builder.fadd(builder.bitcast(magnitude, shape(_FLOAT)), _constant(shape(_FLOAT), 0.5))
    subnormal = builder.sub(builder.bitcast(half, shape(_I32)), _constant(shape(_I32), 0x3F000000))
    small = builder.icmp_unsigned("<", magnitude, _constant(shape(_I32), 113 << 23))
    large = builder.icmp_unsigned(">=", magnitude, _constant(shape(_I32), 143 << 23))
    nan = builder.icmp_unsigned(">", magnitude, _constant(shape(_I32), 0x7F800000))
    result = builder.select(small, subnormal, normal)
    result = builder.select(large, _constant(shape(_I32), 0x7C00), result)
    result = builder.select(nan, _constant(shape(_I32), 0x7E00), result)
    return builder.trunc(builder.or_(result, sign), shape(_I16))


def _like(t: ir.Type):
    return (lambda element: ir.VectorType(element, t.count)) if isinstance(t, ir.VectorType) else (lambda e: e)


def _constant(t: ir.Type, x: float) -> ir.Constant:
    return ir.Constant(t, [x] * t.count if isinstance(t, ir.VectorType) else x)
