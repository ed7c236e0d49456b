"""Tools of a chat completion, and which of them the model may or must call."""

from typing import Annotated, Any, Literal

from pydantic import Field

from llmrun.cli.server.errors import BadRequest
from llmrun.cli.server.openai_fields import Fields, JsonObject


class FunctionDefinition(Fields):
    """A function that the model may call."""

    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = Field(None, description="calls that are required or named follow their schema in any case")


class FunctionTool(Fields):
    """A tool: a function."""

    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Fields):
    """A function by its name."""

    name: str


class NamedChoice(Fields):
    """The model must call this function."""

    type: Literal["function"]
    function: FunctionName


class AllowedFunction(Fields):
    """One of the tools that may be called."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(Fields):
    """A selection of the tools, and whether one must be called."""

    mode: Literal["auto", "required"]
    tools: list[AllowedFunction]


class AllowedChoice(Fields):
    """The model may or must call one of a selection of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required"] | Annotated[NamedChoice | AllowedChoice, Field(discriminator="type")]


def chosen_tools(tools: list[FunctionTool], choice: ToolChoice | None) -> tuple[list[FunctionDefinition], str]:
    """Return the functions that the model is told of, and "auto", "none", "required" or "=NAME".

    Raises BadRequest for a choice among tools that are not there, and for two of one name.
    """
    functions = {tool.function.name: tool.function for tool in tools}
    if len(functions) < len(tools):
        raise BadRequest("tools has two functions of one name; give each a name of its own", "tools")
    if choice is None or isinstance(choice, str):
        if choice == "required" and not functions:
            raise BadRequest("tool_choice is required, but there are no tools", "tool_choice")
        return list(functions.values()), choice or "auto"
    if isinstance(choice, NamedChoice):
        _check_known([choice.function.name], functions)
        return list(functions.values()), f"={choice.function.name}"
    names = [tool.function.name for tool in choice.allowed_tools.tools]
    _check_known(names, functions)
    if not names:
        raise BadRequest("tool_choice allows no tools; name at least one, or say none", "tool_choice")
    return [functions[name] for name in dict.fromkeys(names)], choice.allowed_tools.mode


def _check_known(names: list[str], functions: dict[str, Any]) -> None:
    for name in names:
        if name not in functions:
            raise BadRequest(f"tool_choice names {name!r}, which is not among the tools", "tool_choice")
