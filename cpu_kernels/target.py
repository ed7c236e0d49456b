"""LLVM's view of an instruction set, shared by the compiler and by the loader, which does without Numba."""

import llvmlite.binding as llvm

from llmrun.cpu_kernels.isa import Isa


def symbol(name: str) -> str:
    """The C symbol of a kernel."""
    return f"llmrun_{name}"


def processor(isa: Isa) -> tuple[str, str]:
    """LLVM's name of the processor to compile for, and its features."""
    if isa.cpu:
        return isa.cpu, isa.features
    features = (llvm.get_host_cpu_features().flatten(), isa.features)
    return llvm.get_host_cpu_name(), ",".join(part for part in features if part)


def target_machine(isa: Isa) -> llvm.TargetMachine:
    """LLVM's code generator for an instruction set."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu, features = processor(isa)
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=cpu, features=features, opt=3, codemodel="jitdefault", jit=True)
