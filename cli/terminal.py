"""The prompt of the chat: line editing, history, and texts of several lines."""

from prompt_toolkit import PromptSession
from prompt_toolkit.history import InMemoryHistory

QUOTES = '"""'


class Terminal:
    """Reads one text at a time from the person at the terminal."""

    def __init__(self) -> None:
        # the history stays in memory: what people ask is theirs
        self._session: PromptSession[str] = PromptSession(history=InMemoryHistory())

    def read(self) -> str | None:
        """The next text; None after Ctrl-D. Ctrl-C starts the text over."""
        while True:
            try:
                line = self._session.prompt(">>> ")
                if not line.lstrip().startswith(QUOTES):
                    return line
                return self._read_quoted(line.lstrip().removeprefix(QUOTES))
            except KeyboardInterrupt:
                continue
            except EOFError:
                return None

    def _read_quoted(self, line: str) -> str:
        lines = []
        while not line.rstrip().endswith(QUOTES):
            lines.append(line)
            line = self._session.prompt("... ")
        lines.append(line.rstrip().removesuffix(QUOTES))
        return "\n".join(lines).strip("\n")
