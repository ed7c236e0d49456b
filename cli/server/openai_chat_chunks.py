"""The chunks of a streamed chat completion, written without building what is the same in all of them."""

from collections.abc import Sequence
from typing import Any

from llmrun.cli.server.json_text import compact, quoted
from llmrun.runner.tool import ToolCallDelta


class ChatChunks:
    """Writes server-sent events for the choices of one reply.

    All methods return one or several whole events. Most chunks of most streams carry a piece of text and nothing else:
    those are three strings joined.
    """

    def __init__(self, envelope: dict[str, Any], has_usage: bool) -> None:
        """`envelope` has what every chunk begins with: id, object, created, model; has_usage: the last one has it."""
        self._head = "data: " + compact(envelope)[:-1]
        self._tail = ',"usage":null}\n\n' if has_usage else "}\n\n"
        self._content_tail = '},"logprobs":null,"finish_reason":null}]' + self._tail

    def text(self, index: int, field: str, text: str) -> str:
        """Write a delta of `content` or `reasoning_content`."""
        return f'{self._head},"choices":[{{"index":{index},"delta":{{"{field}":{quoted(text)}{self._content_tail}'

    def delta(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
        timings: dict[str, Any] | None = None,
    ) -> str:
        """Write any other delta."""
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        extra = f',"timings":{compact(timings)}' if timings is not None else ""
        return f'{self._head},"choices":[{compact(choice)}]{extra}{self._tail}'

    def usage(self, usage: dict[str, Any]) -> str:
        """Write the last chunk of a stream that was asked for its usage."""
        return f'{self._head},"choices":[],"usage":{compact(usage)}}}\n\n'


def tool_call_deltas(deltas: Sequence[ToolCallDelta]) -> list[dict[str, Any]]:
    """Return `delta.tool_calls`: id, type and name come with the first delta of a call only."""
    written: list[dict[str, Any]] = []
    for delta in deltas:
        function: dict[str, Any] = {} if delta.name is None else {"name": delta.name}
        function["arguments"] = delta.arguments
        opening = {} if delta.id is None else {"id": delta.id, "type": "function"}
        written.append({"index": delta.index, **opening, "function": function})
    return written
