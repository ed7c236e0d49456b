"""`llmrun show`: what is in a model file and what it will need."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmrun.cli.options import Json, Model

if TYPE_CHECKING:
    from llmrun.cli.model_facts import ModelFacts

ContextOfShow = Annotated[
    int | None,
    typer.Option("--ctx", metavar="N", help="Tokens of context to work the memory out for; default: what run uses."),
]
DEFAULT_CONTEXT = 4096


def show(model: Model, context: ContextOfShow = None, as_json: Json = False) -> None:
    """Show the architecture, the sizes, the quantisation and the memory of a model."""
    from llmrun.cli.loading import model_path
    from llmrun.cli.model_facts import ModelFacts
    from llmrun.quant_formats.errors import ContextTooLong, UsageError
    from llmrun.quant_formats.gguf_file import GGUFFile

    if context is not None and context < 1:
        raise UsageError(f"--ctx must be 1 or more, not {context}")
    path = model_path(model)
    with GGUFFile.open(path) as gguf:
        facts = ModelFacts.from_gguf(gguf)
    if context and facts.n_ctx and context > facts.n_ctx:
        raise ContextTooLong(f"--ctx {context} is more than the {facts.n_ctx} tokens the model was trained on")
    tokens = context or min(DEFAULT_CONTEXT, facts.n_ctx or DEFAULT_CONTEXT)
    if as_json:
        memory = {"context": tokens, "kv_bytes": facts.kv_bytes(tokens)}
        print(json.dumps({"path": str(path)} | dataclasses.asdict(facts) | memory, indent=2, ensure_ascii=False))
        return
    for label, value in _lines(path, facts, tokens):
        print(f"{label:16}{value}")


def _lines(path: Path, facts: "ModelFacts", tokens: int) -> list[tuple[str, str]]:
    from llmrun.cli.say import human_bytes, human_count, one_line
    from llmrun.runner.registry import entries

    known = next((entry for entry in entries().values() if entry.path == path), None)
    unknown = "not given"
    licence = known.license if known else one_line(facts.license) if facts.license else unknown
    kv = facts.kv_bytes(tokens)
    heads = f"{facts.n_heads or '?'} heads, {facts.n_kv_heads or '?'} for keys and values, {facts.head_dim or '?'} wide"
    window = f", sliding window {facts.sliding_window}" if facts.sliding_window else ""
    lines = [
        ("file", str(path)),
        ("name", one_line(facts.name) if facts.name else unknown),
        ("architecture", one_line(facts.architecture)),
        ("parameters", human_count(facts.n_parameters)),
        ("layers", f"{facts.n_layers or '?'}, {facts.n_embd or '?'} wide"),
        ("attention", heads + window),
        ("vocabulary", f"{facts.n_vocab or '?'} tokens"),
        ("context", f"{facts.n_ctx} tokens" if facts.n_ctx else unknown),
        ("chat template", "yes" if facts.has_chat_template else "no, text is continued as it is"),
        ("licence", licence),
    ]
    label = "weights"
    for name, (n_tensors, n_bytes) in facts.formats.items():
        share = n_bytes / max(1, facts.weight_bytes)
        lines.append((label, f"{name:6} {human_bytes(n_bytes):>9} {share:6.1%}  {n_tensors} tensors"))
        label = ""
    total = f"{human_bytes(facts.weight_bytes + kv)}: weights {human_bytes(facts.weight_bytes)}"
    lines.append(("memory", f"{total}, keys and values {human_bytes(kv)} at {tokens} tokens, and some work space"))
    return lines
