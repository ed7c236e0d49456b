"""Fetching memory ahead: the keys and values of the next block while this one is worked on."""

from llvmlite import ir
from numba.core import cgutils

from llmrun.cpu_kernels.memory import pointer
from llmrun.cpu_kernels.simd import I8, I32, Emitter, V

_READ, _SECOND_LEVEL, _DATA = 0, 2, 1


def prefetch(s: Emitter, address: V) -> None:
    """Ask for the cache line at an address; no fault if nothing is there."""
    signature = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    function = cgutils.get_or_insert_function(s.builder.module, signature, "llvm.prefetch.p0i8")
    hints = [ir.Constant(I32, hint) for hint in (_READ, _SECOND_LEVEL, _DATA)]
    s.builder.call(function, [pointer(s.builder, address.value, I8), *hints])
