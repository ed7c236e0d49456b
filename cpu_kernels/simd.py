"""Vector code for Numba kernels: `V` values with operators, and an `Emitter` of instructions.

A function under `@emitted` is Python that runs while a kernel is compiled. It gets an `Emitter` and values of type
`V`, and every operator or emitter call adds one vector instruction to the kernel; a `for` loop in it is unrolled:

    @emitted(F32, F32, INTP, INTP)
    def add_products(s, acc, x, y):            # acc + x[0:16] * y[0:16]
        return s.fma(s.load_f32(x), s.load_f32(y), acc)

The same source serves every instruction set: vectors have `Isa.lanes` lanes unless a width is given, LLVM splits
them where registers are narrower, and the few instructions that differ are chosen in `Emitter`.
"""

import inspect
from collections.abc import Callable, Sequence

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from llmrun.cpu_kernels import half
from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.memory import pointer
from llmrun.cpu_kernels.vector import FLOAT, I1, I8, I16, I32, WHOLE, WHOLE_BITS, V, element_of, lanes_of

SIGNED = 128  # the offset of weights that are signed bytes


def raised(isa: Isa, bits: int) -> int:
    """How far weights of so many bits are moved up in their bytes before they are multiplied.

    Where bytes up to 255 can be multiplied, a weight's highest bit becomes its byte's. The offset of weights around
    zero is then 128 whatever their bits, and a nibble that stands high in its byte stays there.
    """
    return 8 - bits if _multiplies_unsigned(isa) else 0


def packed_offset(isa: Isa, offset: int) -> int:
    """The offset of weights that come out of a panel: a power of two, half of what their bits can hold."""
    return SIGNED if offset and _multiplies_unsigned(isa) else offset


def cheap_offset(isa: Isa, offset: int) -> int:
    """The offset that unpacked weights get: one for which `Emitter.sum_start` takes no instruction."""
    return SIGNED if offset and multiplies_signed(isa) else packed_offset(isa, offset)


def multiplies_signed(isa: Isa) -> bool:
    """Whether signed bytes can be multiplied, all of them, and unsigned ones cannot."""
    return isa.dot in ("sdot", "smmla")


def _multiplies_unsigned(isa: Isa) -> bool:
    """Whether bytes up to 255 can be multiplied, and signed ones cannot."""
    return isa.dot.startswith("vnni")


class Emitter:
    """Adds vector instructions for one instruction set to the function that is being compiled."""

    def __init__(self, context, builder: ir.IRBuilder, isa: Isa, lanes: int | None = None):
        self.context, self.builder, self.isa = context, builder, isa
        self.lanes = isa.lanes if lanes is None else lanes
        self.has_half = half.has_conversions(context, builder.module)

    def narrow(self, lanes: int) -> "Emitter":
        """The same for vectors of another width."""
        return Emitter(self.context, self.builder, self.isa, lanes)

    # -- values ---------------------------------------------------------------------------------------------------

    def constant(self, element: ir.Type, x: float, lanes: int | None = None) -> V:
        """`x` in every lane."""
        t = ir.VectorType(element, lanes) if lanes else element
        return V(self, ir.Constant(t, [x] * lanes if lanes else x))

    def constants(self, element: ir.Type, values: Sequence[float]) -> V:
        """A vector of different numbers."""
        return V(self, ir.Constant(ir.VectorType(element, len(values)), list(values)))

    def like(self, v: V, other: "V | int | float") -> V:
        """`other` as a value of v's type: itself, or a number in every lane."""
        if isinstance(other, V):
            return other
        return self.constant(element_of(v.value.type), other, lanes_of(v.value.type))

    def zero_f32(self) -> V:
        """Zero in every lane, as floats."""
        return self.constant(FLOAT, 0.0, self.lanes)

    def zero_i32(self) -> V:
        """Zero in every lane, as 32-bit integers."""
        return self.constant(I32, 0, self.lanes)

    def splat(self, x: V, lanes: int | None = None) -> V:
        """A scalar in every lane."""
        lanes = lanes or self.lanes
        undefined = ir.Constant(ir.VectorType(x.value.type, lanes), ir.Undefined)
        one = self.builder.insert_element(undefined, x.value, ir.Constant(I32, 0))
        mask = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
        return V(self, self.builder.shuffle_vector(one, undefined, mask))

    # -- memory ---------------------------------------------------------------------------------------------------

    def load(self, element: ir.Type, address: V, lanes: int | None = None) -> V:
        """`lanes` elements (or a scalar) from an address of any alignment."""
        t = ir.VectorType(element, lanes) if lanes else element
        load = self.builder.load(pointer(self.builder, address.value, t))
        load.align = 1
        return V(self, load)

    def store(self, address: V, v: V) -> None:
        """Write a value to an address of any alignment."""
        store = self.builder.store(v.value, pointer(self.builder, address.value, v.value.type))
        store.align = 1

    def prefetch(self, address: V, n_bytes: int, *, first_cache: bool = False) -> None:
        """Ask for the cache lines of memory that will be read soon, into the second cache or even the first."""
        self.prefetch_lines(address, 0, -(-n_bytes // 64), 64, first_cache=first_cache)

    def prefetch_lines(
        self, address: V, first: int, last: int, spacing: "V | int", *, first_cache: bool = False
    ) -> None:
        """Ask for the cache lines at `address` + i x `spacing`, first <= i < last."""
        signature = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
        function = cgutils.get_or_insert_function(self.builder.module, signature, "llvm.prefetch.p0")
        hints = [ir.Constant(I32, x) for x in (0, 3 if first_cache else 2, 1)]  # for reading, where to, data
        for i in range(first, last):
            self.builder.call(function, [pointer(self.builder, (address + spacing * i).value, I8), *hints])

    def load_f32(self, address: V) -> V:
        """Floats."""
        return self.load(FLOAT, address, self.lanes)

    def load_f16(self, address: V) -> V:
        """Halfs as floats."""
        return V(self, half.to_float(self.builder, self.load(I16, address, self.lanes).value, hardware=self.has_half))

    def load_bf16(self, address: V) -> V:
        """Bfloat16 as floats."""
        wide = self.builder.zext(self.load(I16, address, self.lanes).value, self._vector(I32))
        return self.bitcast(V(self, wide) << 16, FLOAT, self.lanes)

    def load_i8(self, address: V, *, signed: bool) -> V:
        """Bytes as 32-bit integers."""
        narrow = self.load(I8, address, self.lanes).value
        return V(self, (self.builder.sext if signed else self.builder.zext)(narrow, self._vector(I32)))

    def load_i32(self, address: V) -> V:
        """32-bit integers."""
        return self.load(I32, address, self.lanes)

    def load_bytes(self, address: V) -> V:
        """Four bytes for each lane."""
        return self.load(I8, address, 4 * self.lanes)

    def keep_order(self) -> None:
        """Loads are not moved across this point; the compiler would fill registers with them, and spill."""
        self.builder.asm(ir.FunctionType(ir.VoidType(), []), "", "", [], True)

    def broadcast_i32(self, address: V) -> V:
        """One 32-bit integer in every lane."""
        return self.splat(self.load(I32, address))

    def broadcast_f32(self, address: V) -> V:
        """One float in every lane."""
        return self.splat(self.load(FLOAT, address))

    def broadcast_nth(self, element: ir.Type, address: V, i: int) -> V:
        """The i-th of the 32-bit values at an address in every lane; those up to the next multiple of 4 may be read."""
        if not multiplies_signed(self.isa):
            return self.splat(self.load(element, address + 4 * i))
        four = self.load(element, address + 16 * (i // 4), 4)  # ARM multiplies with one lane of a register
        return self.shuffle(four, four, [i % 4] * self.lanes)

    # -- arithmetic -----------------------------------------------------------------------------------------------

    def fma(self, a: V, b: V, c: V) -> V:
        """a * b + c, rounded once; twice where the processor cannot fuse them."""
        if self.isa.dot == "generic":
            return a * b + c
        return self._call_like("llvm.fma", c, [a, b, c])

    def minimum(self, a: V, b: V) -> V:
        """The smaller of two floats, lane by lane."""
        return self._call_like("llvm.minnum", a, [a, b])

    def maximum(self, a: V, b: V) -> V:
        """The larger of two floats, lane by lane."""
        return self._call_like("llvm.maxnum", a, [a, b])

    def maximum_i32(self, a: V, b: V) -> V:
        """The larger of two signed integers, lane by lane."""
        return self._call_like("llvm.smax", a, [a, b])

    def absolute(self, a: V) -> V:
        """Floats without their sign."""
        return self._call_like("llvm.fabs", a, [a])

    def round_even(self, a: V) -> V:
        """Rounded to the nearest whole number, ties to even; |a| < 2**22."""
        return (a + WHOLE) - WHOLE  # the fraction is pushed out

    def to_f32(self, v: V) -> V:
        """Signed integers as floats."""
        return V(self, self.builder.sitofp(v.value, ir.VectorType(FLOAT, v.value.type.count)))

    def to_i32(self, v: V) -> V:
        """Floats as integers, fractions cut off."""
        return V(self, self.builder.fptosi(v.value, ir.VectorType(I32, v.value.type.count)))

    def truncate(self, v: V, element: ir.Type) -> V:
        """The low bits of integers."""
        lanes = lanes_of(v.value.type)
        return V(self, self.builder.trunc(v.value, ir.VectorType(element, lanes) if lanes else element))

    def select_greater(self, a: V, b: V, then: V, otherwise: V) -> V:
        """Per lane: `then` where a > b."""
        return V(
            self, self.builder.select(self.builder.fcmp_ordered(">", a.value, b.value), then.value, otherwise.value)
        )

    def select_within(self, x: V, low: V, high: V, then: V, otherwise: V) -> V:
        """Per lane: `then` where low <= x < high, signed integers."""
        b = self.builder
        inside = b.and_(b.icmp_signed(">=", x.value, low.value), b.icmp_signed("<", x.value, high.value))
        return V(self, b.select(inside, then.value, otherwise.value))

    def first_lane(self, v: V) -> V:
        """Lane 0 as a scalar."""
        return V(self, self.builder.extract_element(v.value, ir.Constant(I32, 0)))

    def shuffle(self, a: V, b: V, lanes: Sequence[int]) -> V:
        """The lanes of a and b, numbered through, in the order given."""
        mask = ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))
        return V(self, self.builder.shuffle_vector(a.value, b.value, mask))

    def pieces(self, v: V, lanes: int) -> list[V]:
        """A vector cut into shorter ones."""
        return [self.shuffle(v, v, range(i, i + lanes)) for i in range(0, v.value.type.count, lanes)]

    def joined(self, pieces: Sequence[V]) -> V:
        """Vectors of one length, 2**n of them, as one."""
        while len(pieces) > 1:
            lanes = range(2 * pieces[0].value.type.count)
            pieces = [self.shuffle(a, b, lanes) for a, b in zip(pieces[::2], pieces[1::2], strict=True)]
        return pieces[0]

    def reduce(self, v: V, combine: Callable[[V, V], V]) -> V:
        """All lanes combined in one fixed order: halves onto each other until one is left."""
        n = v.value.type.count
        while n > 1:
            n //= 2
            v = combine(self.shuffle(v, v, range(n)), self.shuffle(v, v, range(n, 2 * n)))
        return self.first_lane(v)

    def reduce_each(self, vectors: Sequence[V], combine: Callable[[V, V], V]) -> V:
        """Each of m vectors of 16 lanes combined to one value, in lanes 16 i / m and following of the result.

        The order of combination is not that of `reduce`; it does not matter for integers and for the largest of floats.
        """
        half = 8
        while half:
            n = max(1, len(vectors) // 2)
            pairs = zip(vectors[:n], vectors[-n:], strict=True)
            parts = [[base + i for base in range(0, 16, 2 * half) for i in range(at, at + half)] for at in (0, half)]
            order = [
                [lane + 16 * second for k in range(0, 8, half) for second in (0, 1) for lane in part[k : k + half]]
                for part in parts
            ]
            vectors = [combine(self.shuffle(a, b, order[0]), self.shuffle(a, b, order[1])) for a, b in pairs]
            half //= 2
        return vectors[0]

    def lane(self, v: V, i: int) -> V:
        """One lane of a vector in every lane."""
        return self.shuffle(v, v, [i] * v.value.type.count)

    def bitcast(self, v: V, element: ir.Type, lanes: int) -> V:
        """The same bits as other elements."""
        return V(self, self.builder.bitcast(v.value, ir.VectorType(element, lanes)))

    def as_i16_pairs(self, v: V) -> V:
        """32-bit lanes as pairs of 16-bit integers."""
        return self.bitcast(v, I16, 2 * v.value.type.count)

    def bits(self, v: V, first: int, count: int, target: int = 0) -> V:
        """`count` bits of each byte from bit `first` on, moved to bit `target`; the other bits are 0."""
        return self.byte_shift(v, first - target) & (((1 << count) - 1) << target)

    def byte_shift(self, v: V, bits: int) -> V:
        """Bytes shifted right (left where negative); bits of the neighbour come in, so mask the result."""
        if bits == 0:
            return v
        n = v.value.type.count
        wide = self.bitcast(v, I16, n // 2)
        return self.bitcast(wide >> bits if bits >= 0 else wide << -bits, I8, n)

    def exp(self, x: V) -> V:
        """e**x with a relative error below 2e-7; 0 below -87.3.

        2**n * e**r with |r| <= ln(2)/2: a Cody-Waite reduction and a polynomial of degree six (Cephes, expf).
        """
        lanes = x.value.type.count
        low, high = self.constant(FLOAT, -87.3, lanes), self.constant(FLOAT, 88.3, lanes)
        clamped = self.minimum(self.maximum(x, low), high)
        n = self.round_even(clamped * 1.44269504088896341)
        r = self.fma(n, self.constant(FLOAT, -0.693359375, lanes), clamped)
        r = self.fma(n, self.constant(FLOAT, 2.12194440e-4, lanes), r)
        p = self.constant(FLOAT, 1.9875691500e-4, lanes)
        for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
            p = self.fma(p, r, self.constant(FLOAT, c, lanes))
        p = self.fma(p, r * r, r) + 1.0
        power = self.bitcast((self.to_i32(n) + 127) << 23, FLOAT, lanes)
        return self.select_greater(low, x, self.constant(FLOAT, 0.0, lanes), p * power)

    # -- dot products of bytes: the instructions that differ --------------------------------------------------------

    def dot_u8(self, acc: V, u: V, x: V) -> V:
        """acc[lane] += the dot product of four bytes and four signed ones, exactly.

        The first are unsigned, and at most 127 where `raised` is 0.
        """
        kind, n = self.isa.dot, self.lanes
        if kind == "generic":
            return acc + self._sum4(self._widen(u, signed=False) * self._widen(x, signed=True))
        if kind == "maddubs":
            pairs = self._call("llvm.x86.avx2.pmadd.ub.sw", ir.VectorType(I16, 2 * n), [u, x])
            return acc + self._call("llvm.x86.avx2.pmadd.wd", self._vector(I32), [pairs, self.constant(I16, 1, 2 * n)])
        if multiplies_signed(self.isa):
            parts = zip(self.pieces(acc, 4), self.pieces(u, 16), self.pieces(x, 16), strict=True)
            return self.joined(
                [self._call("llvm.aarch64.neon.sdot.v4i32.v16i8", a.value.type, [a, b, c]) for a, b, c in parts]
            )
        bits = {"vnni512": 512, "vnni256": 256}[kind]
        return self._call(f"llvm.x86.avx512.vpdpbusd.{bits}", self._vector(I32), [acc, u, x])

    def dot(self, acc: V, w: V, x: V, offset: int) -> V:
        """acc[lane] += the dot product of four bytes of weights and four activations in -127..127, exactly.

        The weights have an offset: 128 stands for `signed_weights`, anything else for unsigned bytes, of at most 127
        where `raised` is 0.
        What the offset adds to the sum is taken away by `sum_start`.
        """
        return self._dot_s8(acc, w, x) if offset == SIGNED else self.dot_u8(acc, w, x)

    def sum_start(self, start: V, offset: int) -> V:
        """What a sum of `dot` starts from, given the record's start, which is right for an offset of 128."""
        zero = 0 if self._converts_sums else WHOLE_BITS
        if offset == 0 or (offset == SIGNED and not _multiplies_unsigned(self.isa)):
            return self.constant(I32, zero, self.lanes)
        if offset == SIGNED:
            return start
        shift = (SIGNED // offset).bit_length() - 1
        return start.arithmetic_shift(shift) - ((WHOLE_BITS >> shift) - zero)

    def scaled_sum(self, total: V, scale: V, end: V) -> V:
        """A sum that began at `sum_start`, times a scale, rounded once; `end` is -WHOLE x scale."""
        if self._converts_sums:
            return self.to_f32(total) * scale
        return self.fma(self.bitcast(total, FLOAT, self.lanes), scale, end)

    @property
    def _converts_sums(self) -> bool:
        """Whether sums begin at zero: on ARM, where a fused product overwrites what it adds to, and without fusing."""
        return multiplies_signed(self.isa) or self.isa.dot == "generic"

    def signed_weights(self, w: V) -> V:
        """Signed bytes as `dot` wants them: with 128 added where only unsigned ones can be multiplied."""
        return w ^ -128 if _multiplies_unsigned(self.isa) else w

    def with_cheap_offset(self, w: V, offset: int) -> V:
        """Weights with the offset that `cheap_offset` says."""
        return w - offset if offset and multiplies_signed(self.isa) and offset != SIGNED else w

    def matrix_dot(self, acc: V, a: V, b: V) -> V:
        """acc += a b, exactly: a holds two rows of eight signed bytes, b two columns, acc 2 x 2 integers, by rows."""
        return self._call("llvm.aarch64.neon.smmla.v4i32.v16i8", acc.value.type, [acc, a, b])

    def _dot_s8(self, acc: V, w: V, x: V) -> V:
        if _multiplies_unsigned(self.isa) or multiplies_signed(self.isa):
            return self.dot_u8(acc, w, x)
        if self.isa.dot == "maddubs":  # |w| <= 128 times 127, twice, is 32,512: no saturation
            magnitude = self._call_like("llvm.abs", w, [w, self.constant(I1, 0)])
            return self.dot_u8(acc, magnitude, self._call("llvm.x86.avx2.psign.b", w.value.type, [x, w]))
        return acc + self._sum4(self._widen(w, signed=True) * self._widen(x, signed=True))

    def dot_i16(self, acc: V, a: V, b: V) -> V:
        """acc[lane] += the dot product of two pairs of signed 16-bit integers."""
        n = self.lanes
        if self.isa.dot == "generic":
            wide = ir.VectorType(I32, 2 * n)
            product = V(self, self.builder.sext(a.value, wide)) * V(self, self.builder.sext(b.value, wide))
            return (
                acc
                + self.shuffle(product, product, range(0, 2 * n, 2))
                + self.shuffle(product, product, range(1, 2 * n, 2))
            )
        if self.isa.dot == "maddubs":
            return acc + self._call("llvm.x86.avx2.pmadd.wd", self._vector(I32), [a, b])
        bits = {"vnni512": 512, "vnni256": 256}[self.isa.dot]
        return self._call(f"llvm.x86.avx512.vpdpwssd.{bits}", self._vector(I32), [acc, a, b])

    # -- helpers --------------------------------------------------------------------------------------------------

    def _vector(self, element: ir.Type) -> ir.VectorType:
        return ir.VectorType(element, self.lanes)

    def _widen(self, v: V, *, signed: bool) -> V:
        wide = ir.VectorType(I32, v.value.type.count)
        return V(self, (self.builder.sext if signed else self.builder.zext)(v.value, wide))

    def _sum4(self, v: V) -> V:
        n = v.value.type.count
        total = self.shuffle(v, v, range(0, n, 4))
        for i in (1, 2, 3):
            total = total + self.shuffle(v, v, range(i, n, 4))
        return total

    def _call(self, name: str, result: ir.Type, args: list[V]) -> V:
        signature = ir.FunctionType(result, [a.value.type for a in args])
        function = cgutils.get_or_insert_function(self.builder.module, signature, name)
        return V(self, self.builder.call(function, [a.value for a in args]))

    def _call_like(self, name: str, like: V, args: list[V]) -> V:
        t = like.value.type
        suffix = {FLOAT: "f32", I8: "i8", I32: "i32"}[element_of(t)]
        return self._call(f"{name}.v{t.count}{suffix}" if lanes_of(t) else f"{name}.{suffix}", t, args)


def emitter_for(isa: Isa, lanes: int | None = None) -> Callable:
    """The decorator `emitted(result, *parameters)` for an instruction set; the arguments are Numba types.

    `lanes` overrides the width of its vectors, where a result must not depend on the instruction set.
    """

    def emitted(result: types.Type, *parameters: types.Type) -> Callable:
        def decorate(function: Callable) -> Callable:
            signature = result(*parameters)

            def generate(context, builder, _signature, arguments):
                s = Emitter(context, builder, isa, lanes)
                values = [_unpack(s, t, a) for t, a in zip(parameters, arguments, strict=True)]
                return _pack(context, builder, result, function(s, *values))

            def define(_typing_context, *_arguments):
                return signature, generate

            define.__name__ = define.__qualname__ = function.__name__
            define.__signature__ = inspect.signature(function)  # Numba wants named parameters
            return intrinsic(define)

        return decorate

    return emitted


def _unpack(s: Emitter, t: types.Type, value: ir.Value) -> "V | list[V]":
    if isinstance(t, types.UniTuple):
        return [V(s, s.builder.extract_value(value, i)) for i in range(t.count)]
    return V(s, value)


def _pack(context, builder: ir.IRBuilder, t: types.Type, result) -> ir.Value:
    if t == types.void:
        return context.get_dummy_value()
    if not isinstance(t, types.UniTuple):
        return result.value
    aggregate = ir.Constant(context.get_value_type(t), ir.Undefined)
    for i, v in enumerate(result):
        aggregate = builder.insert_value(aggregate, v.value, i)
    return aggregate
