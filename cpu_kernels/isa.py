"""Instruction sets: which one this processor has, and what code generation may use for each."""

from dataclasses import dataclass

from llmrun.quant_formats.errors import KernelError


@dataclass(frozen=True)
class Isa:
    """A target of the kernels: its name, what LLVM is told, and the shape of the register tiles."""

    name: str
    cpu: str  # LLVM's name of the processor; "" is the one in front of us
    features: str  # LLVM feature string; where `cpu` is "", in addition to what the processor reports
    lanes: int  # 32-bit values handled as one vector: the rows of a panel worked on together
    columns: int  # most activation columns in a register tile of the matrix product, and in a group of them
    panels: int  # panels of rows in a register tile over unpacked weights
    tile_columns: int  # and its columns
    dot: str  # how products of bytes are summed: "vnni512", "vnni256", "maddubs", "smmla", "sdot", "generic"


_AVX2 = "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+popcnt,+sse4.2"

ISAS = {
    "avx512vnni": Isa("avx512vnni", "", "", 16, 8, 3, 4, "vnni512"),
    "avxvnni": Isa("avxvnni", "x86-64-v3", _AVX2 + ",+avxvnni", 8, 4, 1, 4, "vnni256"),
    "avx2": Isa("avx2", "x86-64-v3", _AVX2, 8, 4, 1, 4, "maddubs"),
    # Of 32 registers of four lanes, eight rows by four columns take eight each for sums, partial and total results.
    "i8mm": Isa("i8mm", "", "+neon,+dotprod,+i8mm", 8, 4, 1, 4, "smmla"),
    "dotprod": Isa("dotprod", "", "+neon,+dotprod", 8, 4, 1, 4, "sdot"),
    "portable": Isa("portable", "generic", "", 8, 2, 1, 2, "generic"),
}
"""Best first, for each family of processors."""

_NEEDS = {
    "avx512vnni": ("avx512vnni", "avx512bw", "avx512vl", "avx512dq", "fma", "f16c"),
    "avxvnni": ("avxvnni", "avx2", "fma", "f16c"),
    "avx2": ("avx2", "fma", "f16c"),
    "i8mm": ("dotprod", "i8mm"),
    "dotprod": ("dotprod",),
    "portable": (),
}


def supported() -> list[str]:
    """Names of the instruction sets that this processor can run, best first."""
    from llmrun.cpu_kernels.host_features import host_features

    features = host_features()
    return [name for name, needs in _NEEDS.items() if features.issuperset(needs)]


def choose(name: str | None = None) -> Isa:
    """The best instruction set of this processor, or the one that is asked for by name."""
    available = supported()
    if name is None:
        return ISAS[available[0]]
    if name not in ISAS:
        raise KernelError(f"unknown instruction set {name!r}; choose one of {', '.join(ISAS)}")
    if name not in available:
        raise KernelError(f"this processor has no {name}; it can run {', '.join(available)}")
    return ISAS[name]
