"""Loads, stores and atomics at addresses, for Numba kernels."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from llmrun.cpu_kernels import half

_WORD = ir.IntType(64)


def pointer(builder: ir.IRBuilder, address: ir.Value, t: ir.Type) -> ir.Value:
    """An address as a pointer to a `t`.

    Address 0 has to count as valid. LLVM, when it has compiled a function that others call, leaves its `a + b` as an
    offset `a` to a base `b`; inlined where b is 0 that would be an access to null, and all code around it be dropped.
    """
    set.add(builder.function.attributes, "null_pointer_is_valid")  # llvmlite's own list of names lacks it
    return builder.inttoptr(address, t.as_pointer())


def _loader(ir_type: ir.Type, numba_type: types.Type):
    @intrinsic
    def load(_context, address):
        def generate(_, builder, _signature, arguments):
            value = builder.load(pointer(builder, arguments[0], ir_type))
            value.align = 1
            return value

        return numba_type(types.intp), generate

    return load


def _storer(ir_type: ir.Type, numba_type: types.Type):
    @intrinsic
    def store(_context, address, value):
        def generate(context, builder, _signature, arguments):
            written = builder.store(arguments[1], pointer(builder, arguments[0], ir_type))
            written.align = 1
            return context.get_dummy_value()

        return types.void(types.intp, numba_type), generate

    return store


load_u8, store_u8 = (f(ir.IntType(8), types.uint8) for f in (_loader, _storer))
load_i8 = _loader(ir.IntType(8), types.int8)
load_u16, store_u16 = (f(ir.IntType(16), types.uint16) for f in (_loader, _storer))
load_u32, store_u32 = (f(ir.IntType(32), types.uint32) for f in (_loader, _storer))
load_i32, store_i32 = (f(ir.IntType(32), types.int32) for f in (_loader, _storer))
load_word, store_word = (f(_WORD, types.intp) for f in (_loader, _storer))
load_f32, store_f32 = (f(ir.FloatType(), types.float32) for f in (_loader, _storer))


@intrinsic
def load_f16(_context, address):
    """A half as a float."""

    def generate(context, builder, _signature, arguments):
        bits = builder.load(pointer(builder, arguments[0], ir.IntType(16)))
        bits.align = 1
        return half.to_float(builder, bits, hardware=half.has_conversions(context, builder.module))

    return types.float32(types.intp), generate


@intrinsic
def store_f16(_context, address, value):
    """Write a float as a half, rounded to nearest even."""

    def generate(context, builder, _signature, arguments):
        hardware = half.has_conversions(context, builder.module)
        bits = half.from_float(builder, arguments[1], hardware=hardware)
        builder.store(bits, pointer(builder, arguments[0], ir.IntType(16))).align = 1
        return context.get_dummy_value()

    return types.void(types.intp, types.float32), generate


@intrinsic
def call_kernel(_context, kernel, op, thread, n_threads):
    """Call the kernel at an address."""

    def generate(context, builder, _signature, arguments):
        signature = ir.FunctionType(ir.VoidType(), [_WORD] * 3)
        builder.call(pointer(builder, arguments[0], signature), arguments[1:])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), generate


@intrinsic
def fetch_add(_context, address, value):
    """Add to the word at an address and return what was there, as one atomic step."""

    def generate(_, builder, _signature, arguments):
        word = pointer(builder, arguments[0], _WORD)
        return builder.atomic_rmw("add", word, arguments[1], "seq_cst")

    return types.intp(types.intp, types.intp), generate


@intrinsic
def load_atomic(_context, address):
    """The word at an address, and everything that was written before it."""

    def generate(_, builder, _signature, arguments):
        return builder.load_atomic(pointer(builder, arguments[0], _WORD), "seq_cst", 8)

    return types.intp(types.intp), generate


@intrinsic
def store_atomic(_context, address, value):
    """Write a word after everything that was written before it."""

    def generate(context, builder, _signature, arguments):
        builder.store_atomic(arguments[1], pointer(builder, arguments[0], _WORD), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic
def prefetch(_context, address):
    """Ask for the cache line at an address, into the second cache; any address will do."""

    def generate(context, builder, _signature, arguments):
        i32 = ir.IntType(32)
        signature = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), i32, i32, i32])
        function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
        hints = [ir.Constant(i32, x) for x in (0, 2, 1)]
        builder.call(function, [pointer(builder, arguments[0], ir.IntType(8)), *hints])
        return context.get_dummy_value()

    return types.void(types.intp), generate


@intrinsic
def pause(_context):
    """Tell the processor that this is a spin loop."""

    def generate(context, builder, _signature, _arguments):
        if builder.module.triple.startswith(("x86_64", "i686", "amd64")):
            signature = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, signature, "llvm.x86.sse2.pause"), [])
        elif builder.module.triple.startswith(("aarch64", "arm64")):
            # "yield" passes at once on most processors; "isb sy" takes about the time of the other's "pause"
            signature = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
            barrier = cgutils.get_or_insert_function(builder.module, signature, "llvm.aarch64.isb")
            builder.call(barrier, [ir.Constant(ir.IntType(32), 15)])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def yield_thread(_context):
    """Let another thread run on this processor, if one is waiting for it."""

    def generate(context, builder, _signature, _arguments):
        name = "SwitchToThread" if "windows" in builder.module.triple else "sched_yield"
        signature = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [])
        return context.get_dummy_value()

    return types.void(), generate
