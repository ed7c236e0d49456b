"""What Ollama's API says of a model file, read from its header alone."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrun.cli.model_facts import ModelFacts
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.chat_template import ChatTemplate
from llmrun.runner.config import ENCODERS
from llmrun.runner.fill_in import FillIn
from llmrun.runner.model_host import LATEST, KnownModel
from llmrun.runner.reasoning import TAGS
from llmrun.runner.tokenizer import Tokenizer
from llmrun.runner.tool_dialect import dialect_of

FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 21: "Q2_K_S",
    25: "IQ4_NL", 30: "IQ4_XS", 32: "BF16",
}  # fmt: skip
"""`general.file_type` as the GGUF specification numbers it."""


@dataclass(frozen=True)
class Details:
    """A model file in the words of Ollama's API."""

    facts: ModelFacts
    details: dict[str, Any]
    capabilities: tuple[str, ...]
    template: str
    fill_in: str | None  # a prompt that asks for what is missing, in Ollama's notation

    @property
    def shown_template(self) -> str:
        """The template as /api/show gives it.

        Where the model can fill in, its tokens come first, in Ollama's notation: editors look for `.Suffix`. What
        follows is the template of the file, in Jinja.
        """
        template = self.template or "{{ .Prompt }}"
        if self.fill_in is None:
            return template
        return "{{- if .Suffix }}" + self.fill_in + "{{- else }}" + template + "{{- end }}"


def details_of(model: KnownModel) -> Details:
    """Read the header of a model's file, once for each version of the file."""
    return _details(model.path, model.modified_at.timestamp())


@functools.lru_cache(maxsize=64)
def _details(path: Path, _modified: float) -> Details:
    with GGUFFile.open(path) as gguf:
        facts = ModelFacts.from_gguf(gguf)
        template = ChatTemplate.from_gguf(gguf.metadata)
        fill_in = _fill_in(Tokenizer.from_gguf(gguf.metadata))
        level = FILE_TYPES.get(gguf.metadata.get("general.file_type"), next(iter(facts.formats), "unknown"))  # type: ignore[call-overload]
    details = {
        "parent_model": "",
        "format": "gguf",
        "family": facts.architecture,
        "families": [facts.architecture],
        "parameter_size": parameter_size(facts.n_parameters),
        "quantization_level": level,
    }
    source = template.source if template else ""
    can_do = ("embedding",) if facts.architecture in ENCODERS else capabilities(source, fill_in is not None)
    return Details(facts, details, can_do, source, fill_in)


def _fill_in(tokenizer: Tokenizer) -> str | None:
    markers = FillIn.of(tokenizer)
    if markers is None:
        return None
    before, after = (tokenizer.token_bytes(token).decode() for token in (markers.prefix, markers.suffix))
    if markers.middle is None:
        return after + "{{ .Suffix }}" + before + "{{ .Prompt }}"
    middle = tokenizer.token_bytes(markers.middle).decode()
    return before + "{{ .Prompt }}" + after + "{{ .Suffix }}" + middle


def capabilities(template: str, can_fill_in: bool) -> tuple[str, ...]:
    """What a model that writes can do: `tools` and `thinking` if its own template knows of them."""
    names = ["completion"]
    if template and dialect_of(template).knows_tools:
        names.append("tools")
    if can_fill_in:
        names.append("insert")
    if can_think(template):
        names.append("thinking")
    return tuple(names)


def can_think(template: str) -> bool:
    """Whether a chat template knows of thoughts."""
    signs = ("enable_thinking", "reasoning_content", "reasoning_effort", *(begins.strip() for begins, _ in TAGS))
    return any(sign in template for sign in signs)


def tagged(name: str) -> str:
    """The name as Ollama writes it, always with a tag."""
    return name if ":" in name else name + LATEST


def parameter_size(n: int) -> str:
    """A number of parameters, as 134.52M."""
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if n >= size:
            return f"{n / size:.{1 if size >= 10**9 else 2}f}{letter}"
    return str(n)


def model_info(metadata: Mapping[str, Any], facts: ModelFacts, verbose: bool) -> dict[str, Any]:
    """The metadata of a file as JSON; arrays, which may be long, are null unless `verbose`."""
    info = {key: _json(value, verbose) for key, value in metadata.items() if key != "tokenizer.chat_template"}
    info["general.parameter_count"] = facts.n_parameters
    info.setdefault("general.basename", facts.name or facts.architecture)
    return info


def _json(value: Any, verbose: bool) -> Any:
    if isinstance(value, str | int | bool):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if not verbose:
        return None
    return [_json(item, verbose) for item in (value.tolist() if hasattr(value, "tolist") else value)]
