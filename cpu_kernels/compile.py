"""Compiles kernels in a process of its own: `python -m llmrun.cpu_kernels.compile ISA FOLDER NAME...`.

Each kernel becomes FOLDER/NAME.o, written whole or not at all, and its name is printed when it is there. A process of
its own keeps Numba out of the program that runs models, lets several compile at once, and survives what LLVM does not:
an instruction that the processor lacks ends the process.
"""

import sys
from pathlib import Path


def compile_kernels(isa_name: str, folder: Path, names: list[str]) -> None:
    """Write the object file of each kernel into the folder."""
    from llmrun.cpu_kernels import jit  # noqa: PLC0415
    from llmrun.cpu_kernels.isa import ISAS  # noqa: PLC0415
    from llmrun.cpu_kernels.kernels import build  # noqa: PLC0415
    from llmrun.quant_formats.whole_file import write_whole  # noqa: PLC0415

    isa = ISAS[isa_name]
    jit.use(isa)
    for name in names:
        write_whole(folder / f"{name}.o", jit.compile_object(name, build(name, isa), isa))
        print(name, flush=True)


if __name__ == "__main__":
    compile_kernels(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
