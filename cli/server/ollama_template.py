"""Ollama's notation for templates, Go's text/template, for as much of it as a prompt of one turn takes.

    {{ if .System }}<|system|>{{ .System }}{{ end }}<|user|>{{ .Prompt }}<|assistant|>{{ .Response }}

There are the variables of such templates, `if` with `else`, and `-` that takes the white space on its side away.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from llmrun.quant_formats.errors import UsageError

VARIABLES = ("System", "Prompt", "Suffix", "Response")

_ACTION = re.compile(r"\{\{(-(?=\s))?\s*(.*?)\s*((?<=\s)-)?\}\}", re.DOTALL)
_VARIABLE = re.compile(r"\.(\w+)")


@dataclass
class _If:
    """One `if`: whether the branch that we are in counts, and whether one of them did already."""

    is_active: bool
    was_taken: bool


def render_template(template: str, variables: Mapping[str, str]) -> str:
    """Return the prompt: what stands before `{{ .Response }}`, where the answer begins.

    `variables` has some of VARIABLES, by name. Raises UsageError for a template that is not well formed or uses more of
    the language.
    """
    out: list[str] = []
    branches: list[_If] = []
    at, trims = 0, False
    for action in _ACTION.finditer(template):
        text = template[at : action.start()]
        text = text.lstrip() if trims else text
        text = text.rstrip() if action[1] else text
        at, trims = action.end(), bool(action[3])
        is_active = all(branch.is_active for branch in branches)
        if is_active:
            out.append(text)
        name = _VARIABLE.fullmatch(action[2])
        if name is None:
            _branch(action[2], branches, variables)
        elif name[1] == "Response" and is_active:
            return "".join(out)
        else:
            value = _value(name[1], variables)
            out.append(value if is_active else "")
    if branches:
        raise UsageError("template has an {{ if }} without an {{ end }}")
    text = template[at:]
    return "".join(out) + (text.lstrip() if trims else text)


def _branch(action: str, branches: list[_If], variables: Mapping[str, str]) -> None:
    """Open, continue or close an `if`; a comment does nothing."""
    words = action.split()
    if action.startswith("/*") and action.endswith("*/"):
        return
    if words[:1] == ["if"]:
        holds = _holds(words[1:], action, variables)
        branches.append(_If(holds, holds))
    elif branches and words[:1] == ["else"]:
        holds = _holds(words[2:], action, variables) if words[1:2] == ["if"] else len(words) == 1
        branch = branches[-1]
        branch.is_active = holds and not branch.was_taken
        branch.was_taken |= holds
    elif branches and words == ["end"]:
        branches.pop()
    else:
        raise UsageError(f"template uses {{{{ {action[:60]} }}}}, which is not supported; use variables and if")


def _holds(condition: list[str], action: str, variables: Mapping[str, str]) -> bool:
    name = _VARIABLE.fullmatch(condition[0]) if len(condition) == 1 else None
    if name is None:
        raise UsageError(f"template uses {{{{ {action[:60]} }}}}, which is not supported; ask for one variable")
    return bool(_value(name[1], variables))


def _value(name: str, variables: Mapping[str, str]) -> str:
    if name not in VARIABLES:
        known = ", ".join(f".{variable}" for variable in VARIABLES)
        raise UsageError(f"template uses .{name[:40]}, which is not supported; there are {known}")
    return variables.get(name, "")
