"""The modules that read and write each type of keys and values: see `build_store`, `build_scores` and so on there."""

from types import ModuleType

from llmrun.cpu_kernels import kv_f16, kv_q8_0

KV_LAYOUTS: dict[str, ModuleType] = {"f16": kv_f16, "q8_0": kv_q8_0}
