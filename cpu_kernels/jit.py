"""How kernels are compiled: the one place for Numba's flags, and the object code that comes out.

A kernel is a Python function `kernel(op, thread, n_threads)` over addresses (see `program.py`). Numba and LLVM turn it
into one object file with the C symbol `llmrun_<name>`; `library.py` keeps these files and loads them without Numba.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import types
from numba.core import config
from numba.core.codegen import CPUCodeLibrary, JITCodeLibrary
from numba.core.cpu import CPUContext

from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.target import processor, symbol, target_machine

# No fastmath: the order of float operations is part of what a kernel promises. error_model keeps exceptions out.
FLAGS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}

KERNEL = types.void(types.intp, types.intp, types.intp)


def device(function: Callable) -> Callable:
    """A function that kernels call; LLVM decides whether to inline it."""
    return numba.njit(nogil=True, error_model="numpy")(function)


def inlined(function: Callable) -> Callable:
    """A function that is inlined wherever it is called."""
    return numba.njit(nogil=True, error_model="numpy", forceinline=True)(function)


def use(isa: Isa) -> None:
    """Make this process compile for an instruction set, and for nothing else; call it before anything is compiled."""
    config.CPU_NAME, config.CPU_FEATURES = processor(isa)
    JITCodeLibrary._finalize_specific = lambda _library: None  # type: ignore[method-assign]
    CPUContext.get_executable = _no_machine_code  # type: ignore[method-assign]


def _no_machine_code(_context: CPUContext, library: CPUCodeLibrary, _function: Any, _environment: Any) -> Callable:
    """Optimise a helper for those that it is inlined into, and no more.

    Numba would make machine code of each, to be called from Python: a third of the time for nothing. What it wants to
    have is a built-in function, another one every time.
    """
    library._ensure_finalized()
    return [].append


def compile_module(name: str, function: Callable) -> llvm.ModuleRef:
    """The optimised LLVM module of a kernel, with its C entry point."""
    dispatcher = numba.njit(KERNEL, **FLAGS)(function)
    (result,) = dispatcher.overloads.values()
    module = llvm.parse_assembly(result.library.get_llvm_str())
    module.link_in(llvm.parse_assembly(str(_entry_point(name, result.fndesc.mangled_name, module))))
    # The mangled names of helpers are unique in one process only, and all kernels are loaded into one.
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration and value.name != symbol(name):
            value.linkage = "internal"
    module.verify()
    return module


def compile_object(name: str, function: Callable, isa: Isa) -> bytes:
    """The object file of a kernel."""
    return target_machine(isa).emit_object(compile_module(name, function))


def _entry_point(name: str, mangled: str, compiled: llvm.ModuleRef) -> ir.Module:
    """`void llmrun_<name>(i64, i64, i64)`, which calls the function under Numba's own convention."""
    module = ir.Module(name=f"entry_{name}")
    module.triple, module.data_layout = compiled.triple, compiled.data_layout
    pointer, word = ir.IntType(8).as_pointer(), ir.IntType(64)
    numba_type = ir.FunctionType(ir.IntType(32), [pointer.as_pointer()] * 2 + [word] * 3)
    inner = ir.Function(module, numba_type, mangled)
    outer = ir.Function(module, ir.FunctionType(ir.VoidType(), [word] * 3), symbol(name))
    builder = ir.IRBuilder(outer.append_basic_block())
    result, exception = builder.alloca(pointer), builder.alloca(pointer)
    builder.call(inner, [result, exception, *outer.args])
    builder.ret_void()
    return module
