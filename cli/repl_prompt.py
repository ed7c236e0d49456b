"""Where the user types: line editing, history, completion, texts of several lines."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from prompt_toolkit import ANSI, PromptSession
from prompt_toolkit.application import get_app, run_in_terminal
from prompt_toolkit.completion import Completer
from prompt_toolkit.filters import Condition, is_searching
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

from llmrun.cli.repl_editor import edit_text
from llmrun.cli.say import say
from llmrun.cli.theme import Theme
from llmrun.quant_formats.errors import UsageError

if TYPE_CHECKING:
    from prompt_toolkit.formatted_text import AnyFormattedText

QUOTES = '"""'
STYLE = Style.from_dict({"bottom-toolbar": "noreverse", "bottom-toolbar.text": "noreverse"})


class Prompt:
    """Reads one text at a time from the person at the terminal.

    Enter sends, except within triple quotes; Alt-Enter begins a new line; Ctrl-R searches what was typed before; Ctrl-G
    opens the editor. What is pasted is one text, however many lines it has.
    """

    def __init__(self, history: History, completer: Completer, toolbar: Callable[[], str], theme: Theme) -> None:
        self.theme = theme
        self._session: PromptSession[str] = PromptSession(
            history=history,
            completer=completer,
            complete_while_typing=Condition(_is_command),
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation=lambda _width, _line, n_wraps: self._painted("    " if n_wraps else "... "),
            bottom_toolbar=lambda: ANSI(toolbar()),
            style=STYLE,
            reserve_space_for_menu=6,
        )

    def read(self, default: str = "") -> str | None:
        """The next text, without its triple quotes; None after Ctrl-D. Ctrl-C starts the text over."""
        n_interrupts = 0
        while True:
            try:
                text = self._session.prompt(self._painted(">>> "), default=default)
            except KeyboardInterrupt:
                n_interrupts += 1
                if n_interrupts == 2:
                    say("Ctrl-D or /quit leaves")
                default = ""
                continue
            except EOFError:
                return None
            return unquoted(text)

    def _painted(self, text: str) -> "AnyFormattedText":
        return ANSI(self.theme.painted(text, ("prompt",)))


def unquoted(text: str) -> str:
    """What stands between triple quotes, if the text begins with them."""
    stripped = text.strip()
    if not stripped.startswith(QUOTES):
        return text
    return stripped.removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")


def is_open(text: str) -> bool:
    """Whether the triple quotes at the beginning of the text are still without their partner."""
    stripped = text.strip()
    return stripped.startswith(QUOTES) and not stripped[len(QUOTES) :].endswith(QUOTES)


def _is_command() -> bool:
    text = get_app().current_buffer.document.text
    return text.startswith("/") and "\n" not in text


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter", filter=~is_searching)
    def _enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None  # the one that is chosen stands in the text already
        elif is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=~is_searching)
    def _alt_enter(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-g", filter=~is_searching)
    def _ctrl_g(event: KeyPressEvent) -> None:
        buffer = event.current_buffer

        def edit() -> None:
            try:
                buffer.text = edit_text(buffer.text)
            except UsageError as error:
                say(f"error: {error}")
            buffer.cursor_position = len(buffer.text)

        run_in_terminal(edit)

    return keys
