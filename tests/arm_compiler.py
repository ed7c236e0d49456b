"""Compiles kernels for ARM on any machine: `python arm_compiler.py ISA FOLDER NAME...`.

Numba and LLVM are told that this process runs on ARM, so that they take every decision as they would there; nothing of
what they make is run. For each kernel, FOLDER gets NAME.ll and NAME.s.
"""

import dataclasses
import sys
from pathlib import Path

import llvmlite.binding as llvm

TRIPLE = "aarch64-unknown-linux-gnu"


def pretend() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.get_process_triple = lambda: TRIPLE
    llvm.Target.from_default_triple = classmethod(lambda cls: cls.from_triple(TRIPLE))


def compile_kernels(isa_name: str, folder: Path, names: list[str]) -> None:
    from llmrun.cpu_kernels import jit
    from llmrun.cpu_kernels.isa import ISAS
    from llmrun.cpu_kernels.kernels import build
    from llmrun.cpu_kernels.target import target_machine

    isa = dataclasses.replace(ISAS[isa_name], cpu="generic")
    jit.use(isa)
    for name in names:
        module = jit.compile_module(name, build(name, isa))
        (folder / f"{name}.ll").write_text(str(module))
        (folder / f"{name}.s").write_text(target_machine(isa).emit_assembly(module))


if __name__ == "__main__":
    pretend()
    compile_kernels(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
