"""`llmrun chat`: a conversation in the terminal."""

import sys
from typing import TYPE_CHECKING

from llmrun.cli.options import GenerateOptions, Model, with_generate_options
from llmrun.cli.standard_output import write
from llmrun.quant_formats.errors import LlmrunError, UsageError

if TYPE_CHECKING:
    from llmrun.cli.terminal import Terminal
    from llmrun.runner.chat import Chat
    from llmrun.runner.engine import Engine

COMMANDS = """\
/help           this list
/clear          forget the conversation
/system TEXT    start again with these instructions; without TEXT, with none
/stats          print speed and token counts after each answer, or stop to
/bye            leave, as does Ctrl-D
\"\"\"             begins and ends a text of several lines
Ctrl-C          stops an answer; what was said so far is kept"""


@with_generate_options
def chat(model: Model, *, options: GenerateOptions) -> None:
    """Talk with a model in the terminal. Ctrl-C stops an answer, Ctrl-D leaves, /help shows the commands."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("chat needs a terminal; for pipes and scripts there is llmrun run MODEL PROMPT")
    params = options.sampling_params()
    if options.raw and options.system is not None:
        raise UsageError("--raw takes the text as it is, so --system has no place; leave one of them out")
    from llmrun.cli.loading import load_engine
    from llmrun.cli.say import say
    from llmrun.cli.terminal import Terminal

    with load_engine(model, options.context, options.threads, options.kv_type) as engine:
        if engine.chat_template is None:
            if options.system is not None:
                raise UsageError("the model has no chat template, so --system has no place; put it into the text")
            say("this is a base model without a chat template: it continues your text rather than answer it")
        conversation = engine.chat(system=options.system, params=params, raw=options.raw)
        has_system = engine.chat_template is not None and not options.raw
        Repl(engine, conversation, Terminal(), has_system, options.stats).run()


class Repl:
    """Reads what the user types, and either obeys it or sends it to the model."""

    def __init__(
        self, engine: "Engine", conversation: "Chat", terminal: "Terminal", has_system: bool, with_stats: bool
    ) -> None:
        self.engine = engine
        self.conversation = conversation
        self.terminal = terminal
        self.has_system = has_system  # whether there is a place for instructions
        self.with_stats = with_stats

    def run(self) -> None:
        """Go on until the user leaves."""
        while (text := self.terminal.read()) is not None:
            word, _, rest = text.strip().partition(" ")
            if word == "/bye":
                return
            if word.startswith("/") and "/" not in word[1:] and "\n" not in text:
                self._obey(word, rest.strip())
            elif text.strip():
                self._answer(text)

    def _obey(self, command: str, text: str) -> None:
        match command:
            case "/help" | "/?":
                print(COMMANDS)
            case "/clear":
                self.conversation.clear()
            case "/system":
                if not self.has_system:
                    print("without a chat template there is no place for instructions")
                    return
                self.conversation.clear()
                self.conversation.system = text or None
            case "/stats":
                self.with_stats = not self.with_stats
                print(f"statistics are {'on' if self.with_stats else 'off'}")
            case _:
                print(f"{command} is not a command; /help shows them")

    def _answer(self, text: str) -> None:
        """Stream one answer. An error of this turn, such as a prompt that is too long, does not end the chat."""
        from llmrun.cli.interrupt import Interrupt
        from llmrun.cli.say import say
        from llmrun.cli.stats_line import print_ending

        try:
            generation = self.conversation.send(text)
            with Interrupt(generation.cancel):
                for piece in generation:
                    write(piece.text)
        except LlmrunError as error:
            say(f"error: {error}")
            return
        except KeyboardInterrupt:  # before the answer began, or a second one
            print()
            return
        print()
        print_ending(generation, self.engine, self.with_stats)
