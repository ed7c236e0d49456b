"""Every kernel by name: which function builds it for an instruction set."""

from collections.abc import Callable

from llmrun.cpu_kernels.isa import Isa


def build(name: str, isa: Isa) -> Callable:
    """The Python function of a kernel, ready to be compiled."""
    from llmrun.cpu_kernels import attention, interpreter, layer_norm, matmul, pack, pointwise, read, rope, rows
    from llmrun.cpu_kernels.kv_types import DEFAULT, KV_TYPES
    from llmrun.cpu_kernels.panel_formats import PANEL_FORMATS

    verb, _, what = name.partition("-")
    size, _, kv_name = what.partition("-")  # of attention and merge
    builders: dict[str, Callable[[], Callable]] = {
        "send": interpreter.build_send,
        "run": interpreter.build_run,
        "work": interpreter.build_work,
        "norm": lambda: rows.build_norm(isa),
        "quantise": lambda: rows.build_quantise(isa),
        "gated": lambda: rows.build_gated(isa, what),
        "layernorm": lambda: layer_norm.build_layer_norm(isa),
        "add": lambda: pointwise.build_add(isa),
        "gelu": lambda: pointwise.build_gelu(isa),
        "rope": lambda: rope.build_rope(isa, KV_TYPES[what or DEFAULT]),
        "attention": lambda: attention.build_attention(isa, int(size), KV_TYPES[kv_name or DEFAULT]),
        "merge": lambda: attention.build_attention_merge(isa, int(size), KV_TYPES[kv_name or DEFAULT]),
        "matmul": lambda: matmul.build_matmul(isa, PANEL_FORMATS[what]),
        "pack": lambda: pack.build_pack(isa, PANEL_FORMATS[what]),
        "embed": lambda: pack.build_embed(PANEL_FORMATS[what]),
        "read": lambda: read.build_read(isa),
    }
    return builders[verb]()


TEAM_KERNELS = ("send", "run", "work")
"""What every team needs."""
