"""`llmrun chat`: a conversation in the terminal."""

import sys
import threading
from typing import TYPE_CHECKING

from llmrun.cli.options import Continue, GenerateOptions, Model, SessionName, with_generate_options
from llmrun.cli.pick_session import check_choice
from llmrun.quant_formats.errors import UsageError

if TYPE_CHECKING:
    from llmrun.cli.repl_conversation import Conversation


@with_generate_options
def chat(
    model: Model, continue_last: Continue = False, session: SessionName = None, *, options: GenerateOptions
) -> None:
    """Talk with a model in the terminal. Ctrl-C stops an answer, Ctrl-D leaves, /help shows the commands.

    Conversations are kept as they go: -c goes on with the last one. Without a terminal, standard input is one message.
    """
    check_choice(continue_last, session)
    options.system_for(has_template=True)  # what makes no sense is said before the model is loaded
    options.sampling_params()
    options.grammar()
    if sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
        _chat_in_terminal(model, options, continue_last, session)
    else:
        _chat_in_pipe(model, options, continue_last, session)


def _chat_in_terminal(model: str, options: GenerateOptions, continue_last: bool, session: str | None) -> None:
    warm_up = threading.Thread(target=_import_prompt, daemon=True)
    warm_up.start()  # while the model is read
    from llmrun.cli.settings import Settings
    from llmrun.cli.terminal import Terminal
    from llmrun.cli.theme import default_theme

    terminal = Terminal()
    theme = default_theme(str(Settings.load(model).get("theme") or ""), terminal.background)
    conversation = _open(model, options, continue_last, session)
    try:
        warm_up.join()
        from llmrun.cli.repl import Repl
        from llmrun.cli.slash_commands import show_where_it_stands

        repl = Repl(conversation, terminal, theme, options.stats)
        conversation.notify = repl.notice
        if conversation.chat.messages:
            show_where_it_stands(repl)
        repl.run()
        info = conversation.info
        if info.n_messages:
            repl.note(f"kept as {info.label}; -c goes on with it")
    finally:
        conversation.close()


def _chat_in_pipe(model: str, options: GenerateOptions, continue_last: bool, session: str | None) -> None:
    """One message, one answer, in plain text."""
    from llmrun.cli.run import finish, read, read_stdin

    text = read_stdin() if sys.stdin is not None and not sys.stdin.isatty() else sys.stdin and sys.stdin.read()
    if not text or not text.strip():
        raise UsageError("there is no message on standard input; llmrun run MODEL PROMPT takes one as an argument")
    conversation = _open(model, options, continue_last, session)
    try:
        generation = conversation.chat.send(text.rstrip("\r\n"))
        read(generation, streams=True)
        finish(generation, conversation.engine, options.stats)
    finally:
        conversation.close()


def _open(model: str, options: GenerateOptions, continue_last: bool, session: str | None) -> "Conversation":
    from llmrun.cli.repl_conversation import Conversation
    from llmrun.cli.say import say

    conversation = Conversation(model, options, continue_last, session)
    if conversation.engine.chat_template is None:
        say("this is a base model without a chat template: it continues your text rather than answer it")
    return conversation


def _import_prompt() -> None:
    # nothing of llmrun: two threads that import each other's modules may wait for each other
    import markdown_it  # noqa: F401  # after what the prompt needs
    import prompt_toolkit.shortcuts  # noqa: F401
