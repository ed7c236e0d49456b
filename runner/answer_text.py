"""The text of an answer on its way from the model to those who read it."""

from llmrun.runner.delta import Delta
from llmrun.runner.tool import ToolCall, ToolCallDelta, new_call_id


class AnswerText:
    """What a model wrote and nobody has settled yet; `at` is how far it has been looked at."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.is_ended = False

    @property
    def rest(self) -> str:
        """What has not been looked at."""
        return self.text[self.at :]

    def take(self, n: int) -> str:
        """Settle what has been looked at and the next `n` characters; returns those."""
        taken = self.text[self.at : self.at + n]
        self.text = self.text[self.at + n :]
        self.at = 0
        return taken

    def settle(self) -> None:
        """Forget what has been looked at."""
        self.take(0)

    def back(self) -> None:
        """Look again at all that is not settled."""
        self.at = 0


class AnswerWriter:
    """Collects deltas, leaving out the white space between the parts of an answer.

    White space is held back until something follows. It is dropped before and after calls, around thoughts and between
    thoughts and content; anywhere else it is content like the rest.
    """

    def __init__(self) -> None:
        self.calls: list[ToolCall] = []  # in full
        self._deltas: list[Delta] = []
        self._space = {"content": "", "reasoning": ""}  # held back at the end of each
        self._has = {"content": False, "reasoning": False}
        self._n_calls = 0  # begun
        self._name: str | None = None  # of the call that is being written
        self._id = ""
        self._arguments: list[str] = []
        self._space_before_call = ""
        self._is_after_call = False
        self.has_thoughts = False  # perhaps empty ones

    def content(self, text: str) -> None:
        """Add to the text of the answer."""
        self._add("content", text)

    def reasoning(self, text: str) -> None:
        """Add to the thoughts."""
        self.has_thoughts = True
        self._add("reasoning", text)

    def paragraph(self) -> None:
        """Begin another message of the same answer, set off from what was said before."""
        for kind in self._space:
            self._space[kind] = "\n\n" if self._has[kind] else ""

    def open_call(self, name: str) -> None:
        """Begin a call."""
        assert self._name is None, "a call inside a call"
        self._name, self._id, self._arguments = name, new_call_id(), []
        self._space_before_call, self._space["content"] = self._space["content"], ""
        self._deltas.append(Delta(tool_calls=(ToolCallDelta(self._n_calls, self._id, name),)))
        self._n_calls += 1

    def arguments(self, piece: str) -> None:
        """Go on with the arguments of the call."""
        if piece:
            self._arguments.append(piece)
            self._deltas.append(Delta(tool_calls=(ToolCallDelta(self._n_calls - 1, arguments=piece),)))

    def close_call(self) -> None:
        """End the call, which is complete."""
        assert self._name is not None, "no call to close"
        self.calls.append(ToolCall(self._id, self._name, "".join(self._arguments)))
        self._name, self._is_after_call = None, True

    def abandon_call(self) -> None:
        """Give up the call that was begun, if one was: its text will come again, as content."""
        if self._name is not None:
            self._name, self._space["content"] = None, self._space_before_call

    def take(self) -> list[Delta]:
        """What has come since the last time, neighbours of one kind as one."""
        deltas: list[Delta] = []
        for delta in self._deltas:
            last = deltas[-1] if deltas else None
            if last and last.content and delta.content:
                last.content += delta.content
            elif last and last.reasoning and delta.reasoning:
                last.reasoning += delta.reasoning
            else:
                deltas.append(delta)
        self._deltas = []
        return deltas

    def finish(self) -> None:
        """End the answer."""
        is_apart = not self._has["content"] and self.has_thoughts
        if self._space["content"] and not self._is_after_call and not is_apart:
            self._deltas.append(Delta(content=self._space["content"]))

    def _add(self, kind: str, text: str) -> None:
        text = self._space[kind] + text
        if kind == "reasoning" and not self._has[kind]:
            text = text.lstrip()
        said = text.rstrip()
        self._space[kind] = text[len(said) :]
        if not said:
            return
        if kind == "content":
            is_first = (self.has_thoughts or self._is_after_call) and not self._has[kind]
            self._deltas.append(Delta(content=said.lstrip() if is_first else said))
            self._is_after_call = False
        else:
            self._deltas.append(Delta(reasoning=said))
        self._has[kind] = True
