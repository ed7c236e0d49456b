"""Compiles kernels in a process of its own: `python -m llmrun.cpu_kernels.compile ISA FOLDER NAME...`.

Each kernel becomes FOLDER/NAME.kernel, written whole or not at all, and its name is printed when it is there. A
process of its own keeps Numba out of the program that runs models, lets several compile at once, and survives what
LLVM does not: an instruction that the processor lacks ends the process.
"""

import sys
from pathlib import Path


def compile_kernels(isa_name: str, folder: Path, names: list[str]) -> None:
    """Write the object file of each kernel into the folder."""
    from llmrun.cpu_kernels import jit
    from llmrun.cpu_kernels.isa import ISAS
    from llmrun.cpu_kernels.kernel_file import write_kernel
    from llmrun.cpu_kernels.kernels import build
    from llmrun.cpu_kernels.library import cache_key
    from llmrun.quant_formats.errors import KernelError

    isa = ISAS[isa_name]
    jit.use(isa)
    for name in names:
        code = jit.compile_object(name, build(name, isa), isa)
        if folder.name != cache_key(isa):
            raise KernelError("the sources of the kernels changed while they were compiled; start again")
        write_kernel(folder / f"{name}.kernel", code)
        print(name, flush=True)


if __name__ == "__main__":
    compile_kernels(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
