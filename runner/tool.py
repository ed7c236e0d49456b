"""Tools that a model may call, and its calls."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmrun.quant_formats.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_COMBINING = ("anyOf", "oneOf", "allOf", "$ref", "not", "if", "patternProperties", "additionalProperties")


@dataclass(frozen=True)
class Tool:
    """A function that the caller offers; `parameters` is the JSON schema of its arguments, an object.

    Raises UsageError for a name that no dialect could write down and for parameters that are no object's schema.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"a tool cannot be called {self.name!r:.80}; a name has 1 to 128 letters, digits, '_', '-' or '.'"
            )
        if not isinstance(self.parameters, Mapping):
            raise UsageError(f"the parameters of tool {self.name} should be a JSON schema: an object")
        if self.parameters.get("type", "object") != "object":
            raise UsageError(
                f"the parameters of tool {self.name} should be of type object, not {self.parameters['type']!r:.40}"
            )
        if not isinstance(self.parameters.get("properties", {}), Mapping):
            raise UsageError(f'"properties" in the parameters of tool {self.name} should be an object')

    @property
    def schema(self) -> dict[str, Any]:
        """The schema of the arguments, complete: of type object, with properties.

        Where it names the properties, or says nothing at all, there are no others unless it says so.
        """
        schema = {"type": "object", "properties": {}, **self.parameters}
        if (not self.parameters or "properties" in self.parameters) and not any(word in schema for word in _COMBINING):
            schema["additionalProperties"] = False
        return schema

    @property
    def function(self) -> dict[str, Any]:
        """Name, description and parameters, as prompts list them."""
        parameters = {"type": "object", "properties": {}, **self.parameters}
        return {"name": self.name, "description": self.description, "parameters": parameters}

    @property
    def entry(self) -> dict[str, Any]:
        """What chat templates expect in their variable `tools`."""
        return {"type": "function", "function": self.function}


@dataclass(frozen=True)
class ToolCall:
    """A call that a model has made in full; `arguments` is the text of a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a call. `index` counts the calls of the answer; id and name come with the first piece only.

    The arguments of all pieces together are the text of one JSON object.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


def new_call_id() -> str:
    """An id that no other call has: "call_" and 24 hexadecimal digits."""
    return "call_" + secrets.token_hex(12)
