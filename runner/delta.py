"""What an answer grows by."""

from dataclasses import dataclass

from llmrun.runner.tool import ToolCallDelta


@dataclass(slots=True)
class Delta:
    """A piece of an answer: of its text, of the thoughts before it, or of calls of tools."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
