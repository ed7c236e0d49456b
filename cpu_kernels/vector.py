"""A vector register in a kernel: its type for Numba, and `V`, the value that is in it while a kernel is compiled."""

from typing import TYPE_CHECKING

from llvmlite import ir
from numba import types
from numba.extending import models, register_model

if TYPE_CHECKING:
    from llmrun.cpu_kernels.simd import Emitter

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
HALF, FLOAT = ir.HalfType(), ir.FloatType()
INTP = types.intp

WHOLE, WHOLE_BITS = 12582912.0, 0x4B400000
"""1.5 x 2**23 and its bits as a float: plus a whole number below 2**22, both are what the other is."""


class VectorType(types.Type):
    """The Numba type of a vector register value of `lanes` elements."""

    def __init__(self, element: ir.Type, lanes: int):
        self.ir = ir.VectorType(element, lanes)
        super().__init__(name=f"vector({lanes} x {element})")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.ir)


def f32_vector(lanes: int) -> VectorType:
    """The Numba type of `lanes` floats."""
    return VectorType(FLOAT, lanes)


def f32_tile(lanes: int, columns: int) -> types.UniTuple:
    """The Numba type of `columns` accumulators of `lanes` floats."""
    return types.UniTuple(f32_vector(lanes), columns)


class V:
    """A value in a register, scalar or vector, with Python's operators."""

    __slots__ = ("s", "value")

    def __init__(self, s: "Emitter", value: ir.Value):
        self.s, self.value = s, value

    @property
    def is_float(self) -> bool:
        """Whether the lanes are floats."""
        return element_of(self.value.type) in (FLOAT, HALF)

    def _binary(self, other: "V | int | float", integer: str, floating: str) -> "V":
        b = self.s.builder
        name = floating if self.is_float else integer
        return V(self.s, getattr(b, name)(self.value, self.s.like(self, other).value))

    def __add__(self, other: "V | int | float") -> "V":
        return self._binary(other, "add", "fadd")

    def __sub__(self, other: "V | int | float") -> "V":
        return self._binary(other, "sub", "fsub")

    def __mul__(self, other: "V | int | float") -> "V":
        return self._binary(other, "mul", "fmul")

    def __truediv__(self, other: "V | int | float") -> "V":
        return self._binary(other, "sdiv", "fdiv")

    def __and__(self, other: "V | int") -> "V":
        return self._binary(other, "and_", "and_")

    def __or__(self, other: "V | int") -> "V":
        return self._binary(other, "or_", "or_")

    def __xor__(self, other: "V | int") -> "V":
        return self._binary(other, "xor", "xor")

    def __lshift__(self, bits: int) -> "V":
        return self._binary(bits, "shl", "shl")

    def __rshift__(self, bits: int) -> "V":
        """Shift right, filling with zeros."""
        return self._binary(bits, "lshr", "lshr")

    def arithmetic_shift(self, bits: int) -> "V":
        """Shift right, filling with the sign."""
        return self._binary(bits, "ashr", "ashr")


def element_of(t: ir.Type) -> ir.Type:
    """The type of a vector's lanes; of a scalar itself."""
    return t.element if isinstance(t, ir.VectorType) else t


def lanes_of(t: ir.Type) -> int | None:
    """Number of lanes; None for a scalar."""
    return t.count if isinstance(t, ir.VectorType) else None
