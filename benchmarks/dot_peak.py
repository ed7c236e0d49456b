"""How many operations a second the processor's dot instruction can do, with nothing to load and nothing to wait for."""

import ctypes
import threading
import time
from collections.abc import Callable

import llvmlite.binding as llvm

from llmrun.cpu_kernels.isa import Isa
from llmrun.cpu_kernels.target import target_machine

N_SUMS = 12  # independent sums: two ports times five cycles from start to result, and registers for all
N_ITERATIONS = 20_000_000
BITS = {"vnni512": 512, "vnni256": 256}
ROUNDS = 3


def dot_peak(isa: Isa, n_threads: int) -> float | None:
    """Operations a second of `n_threads` threads, a multiply-add being two; None for a set without the instruction."""
    if isa.dot not in BITS:
        return None
    machine = target_machine(isa)
    llvm.initialize_native_asmparser()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(_assembly(BITS[isa.dot])), machine)
    engine.finalize_object()
    loop = ctypes.CFUNCTYPE(None, ctypes.c_int64)(engine.get_function_address("loop"))
    operations = 2 * BITS[isa.dot] // 8 * N_SUMS * N_ITERATIONS * n_threads
    return operations / min(_seconds(loop, n_threads) for _ in range(ROUNDS))


def _seconds(loop: Callable[[int], None], n_threads: int) -> float:
    threads = [threading.Thread(target=loop, args=(N_ITERATIONS,)) for _ in range(n_threads)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def _assembly(bits: int) -> str:
    """A loop in LLVM's language; the instruction is written out, so that no sum can be optimised away."""
    vector = f"<{bits // 32} x i32>"
    prefix = "{vex} " if bits == 256 else ""
    starts = "\n".join(f"  %a{i} = phi {vector} [zeroinitializer, %entry], [%b{i}, %next]" for i in range(N_SUMS))
    dot = f'call {vector} asm sideeffect "{prefix}vpdpbusd $2, $1, $0", "=v,v,v,0"'
    sums = "\n".join(
        f"  %b{i} = {dot}({vector} zeroinitializer, {vector} zeroinitializer, {vector} %a{i})" for i in range(N_SUMS)
    )
    return f"""
define void @loop(i64 %n) {{
entry:
  br label %next
next:
  %i = phi i64 [0, %entry], [%j, %next]
{starts}
{sums}
  %j = add i64 %i, 1
  %more = icmp slt i64 %j, %n
  br i1 %more, label %next, label %end
end:
  ret void
}}
"""
