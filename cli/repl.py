"""The chat: reads what the user types, and either obeys it or has the model answer it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.cli.interrupt import Interrupt
from llmrun.cli.markdown_text import Row, printable, wrap
from llmrun.cli.repl_answer import AnswerView, show_plainly
from llmrun.cli.repl_completer import ReplCompleter
from llmrun.cli.repl_conversation import Conversation
from llmrun.cli.repl_history import open_history
from llmrun.cli.repl_prompt import Prompt
from llmrun.cli.slash_commands import COMMANDS, command_named
from llmrun.cli.stats_line import stats_line
from llmrun.cli.status_line import status_line
from llmrun.cli.terminal import Terminal
from llmrun.cli.theme import Theme
from llmrun.quant_formats.errors import LlmrunError

if TYPE_CHECKING:
    from llmrun.cli.repl_thoughts import Mode
    from llmrun.runner.generation import Generation
    from llmrun.runner.sampler import SamplingParams

N_END = 16  # tokens at the end of a prompt that may open the thoughts


class Repl:
    """What the user sees and does, between one prompt and the next."""

    def __init__(self, conversation: Conversation, terminal: Terminal, theme: Theme, with_stats: bool) -> None:
        self.conversation = conversation
        self.terminal = terminal
        self.with_stats = with_stats
        self.thoughts_mode: Mode = "show"
        self.last_thoughts = ""
        self.last: Generation | None = None
        self.attached: list[str] = []  # contents of files that go with the next message
        self.is_leaving = False
        self.next_default = ""  # what the next prompt begins with
        self.n_retries = 0
        completer = ReplCompleter(COMMANDS.values(), lambda command: command.words(self))
        self._view: AnswerView | None = None  # while there is one on the screen
        self._prompt = Prompt(open_history(), completer, self._toolbar, theme)

    @property
    def theme(self) -> Theme:
        """What things look like."""
        return self._prompt.theme

    @theme.setter
    def theme(self, theme: Theme) -> None:
        self._prompt.theme = theme

    def run(self) -> None:
        """Go on until the user leaves."""
        while not self.is_leaving:
            default, self.next_default = self.next_default, ""
            text = self._prompt.read(default)
            if text is None:
                return
            word, _, rest = text.partition(" ")
            if word.startswith("/") and "/" not in word[1:] and "\n" not in text:
                self._obey(word, rest.strip())
            elif text.strip():
                self._send(text)

    def answer(self, ask: "Callable[[SamplingParams], Generation]", params: "SamplingParams | None" = None) -> None:
        """Show the answer that `ask` begins. What goes wrong in this turn, such as a full context, ends only the turn.

        Ctrl-C ends the answer, and what was said stays; a second one does not wait for the step in progress.
        """
        generation: Generation | None = None
        view: AnswerView | None = None
        try:
            with self.terminal.quiet():
                generation = self.last = ask(params or self.conversation.params)
                with Interrupt(generation.cancel):
                    if self.terminal.is_dumb:
                        show_plainly(generation, self.terminal.write)
                    else:
                        mode = self.thoughts_mode
                        view = AnswerView(
                            self.terminal, self.theme, mode, lambda columns: self._status(columns, "Ctrl-C stops")
                        )
                        self._view = view
                        view.show(generation, self._end_of_prompt(generation))
        except LlmrunError as error:
            self.fail(str(error))
        except KeyboardInterrupt:  # before the answer began, or a second one
            self.note("stopped")
        finally:
            self._view = None
        if view is not None and view.thoughts.text:
            self.last_thoughts = view.thoughts.text.strip()
        if generation is not None:
            self._say_ending(generation)

    def notice(self, text: str) -> None:
        """Tell the user something now, also in the middle of an answer."""
        if self._view is None:
            self.note(text)
        else:
            self._view.interject(text)

    def note(self, text: str) -> None:
        """Tell the user something, in one dim line."""
        self._line(text, "dim")

    def fail(self, text: str) -> None:
        """Tell the user that something did not work."""
        self._line(f"error: {text}", "error")

    def print_rows(self, rows: list[Row]) -> None:
        """Print rows that are laid out already."""
        paint = (lambda row: "".join(text for text, _ in row)) if self.terminal.is_dumb else self.theme.paint
        self.terminal.write("".join(f"{paint(row)}\n" for row in rows))

    def _line(self, text: str, role: str) -> None:
        self.print_rows(wrap([(" ".join(printable(text).split()), (role,))], self.terminal.size[0] - 1))

    def _obey(self, word: str, text: str) -> None:
        try:
            command_named(word).run(self, text)
        except LlmrunError as error:
            self.fail(str(error))
        except KeyboardInterrupt:
            self.note("stopped")

    def _send(self, text: str) -> None:
        message = "\n\n".join([*self.attached, text])
        self.n_retries = 0

        def ask(params: "SamplingParams") -> "Generation":
            generation = self.conversation.chat.send(message, params)
            self.attached.clear()  # it is part of the chat now
            return generation

        self.answer(ask)

    def retry_params(self) -> "SamplingParams":
        """Those for another answer: a fixed seed goes on to the next, or the answer would be the same."""
        params = self.conversation.params
        self.n_retries += 1
        return params if params.seed is None else dataclasses.replace(params, seed=params.seed + self.n_retries)

    def _say_ending(self, generation: "Generation") -> None:
        if generation.finish_reason == "cancelled":
            self.note("stopped; what was said so far is kept")
        elif generation.finish_reason == "context":
            n_ctx = self.conversation.engine.n_ctx
            self.note(f"the answer ends here because the context of {n_ctx} tokens is full; --ctx gives more")
        elif generation.finish_reason == "length":
            self.note("the answer ends here because of max_tokens")
        if self.with_stats:
            self.note(stats_line(generation))
        self.terminal.write("\n")

    def _end_of_prompt(self, generation: "Generation") -> str:
        return self.conversation.engine.tokenizer.decode(generation.prompt_ids[-N_END:])

    def _toolbar(self) -> str:
        return self.theme.paint(self._status(self.terminal.size[0], self.conversation.info.name or ""))

    def _status(self, columns: int, name: str) -> Row:
        chat = self.conversation.chat
        rate = self.last.stats.decode_tokens_per_second if self.last is not None else 0.0
        return status_line(Path(self.conversation.model).name, chat.n_tokens, chat.n_ctx, rate, name, columns)
