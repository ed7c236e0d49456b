"""The modules that read and write each type of keys and values: see `build_store`, `build_scores` and so on there."""

from types import ModuleType

from llmrun.cpu_kernels import kv_bytes, kv_f16
from llmrun.cpu_kernels.kv_types import KVType


def layout_of(kv: KVType) -> ModuleType:
    """The module of a type."""
    return kv_f16 if kv.bits == 16 else kv_bytes
