"""What Tab offers: slash commands, what they take, and file names."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

if TYPE_CHECKING:
    from llmrun.cli.slash_commands import SlashCommand


class ReplCompleter(Completer):
    """Completes the word at the cursor of a line that begins with a slash.

    words_for: what may follow a command, for example the names of sessions.
    """

    def __init__(
        self, commands: Iterable["SlashCommand"], words_for: Callable[["SlashCommand"], Iterable[str]]
    ) -> None:
        self._commands = list(commands)
        self._words_for = words_for
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """See `Completer`."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, rest = text.partition(" ")
        if not space:
            for command in self._commands:
                if command.name.startswith(name):
                    yield Completion(command.name, -len(name), display_meta=command.help)
            return
        for command in self._commands:
            if name == command.name or name in command.aliases:
                if command.takes_path:
                    yield from self._paths.get_completions(Document(rest), complete_event)
                else:
                    words = self._words_for(command)
                    yield from (Completion(word, -len(rest)) for word in words if word.startswith(rest))
