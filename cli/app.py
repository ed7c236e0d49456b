"""The command `llmrun`: its subcommands, and the one place where errors become a line and an exit code."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from llmrun.cli.bench import bench
from llmrun.cli.chat import chat
from llmrun.cli.config import config
from llmrun.cli.list import list_models
from llmrun.cli.ps import ps
from llmrun.cli.pull import pull
from llmrun.cli.run import run
from llmrun.cli.say import one_line
from llmrun.cli.serve import serve
from llmrun.cli.sessions import sessions
from llmrun.cli.show import show
from llmrun.cli.standard_output import ReaderLeft, write
from llmrun.cli.stop import stop
from llmrun.quant_formats.errors import EXIT_INTERRUPTED, LlmrunError, OutOfMemory, UsageError

EXIT_READER_LEFT = 141  # 128 + SIGPIPE, as of any tool in a pipe

app = typer.Typer(
    name="llmrun",
    help="Run large language models from GGUF files on your own machine.",
    rich_markup_mode=None,  # rich would cost more to import than the rest of the command line
    pretty_exceptions_enable=False,
)
app.command()(chat)
app.command()(run)
app.command()(pull)
app.command("list")(list_models)
app.command()(show)
app.command()(serve)
app.command()(ps)
app.command()(stop)
app.command()(bench)
app.add_typer(sessions, name="sessions")
app.add_typer(config, name="config")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"llmrun {version('llmrun')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0, or the `exit_code` of the error, 130 after Ctrl-C, 141 if the reader left."""
    status = _exit_code(sys.argv[1:] if arguments is None else list(arguments))
    if status in (EXIT_INTERRUPTED, EXIT_READER_LEFT) and sys.platform != "win32":
        _die_of(signal.SIGINT if status == EXIT_INTERRUPTED else signal.SIGPIPE)
    sys.exit(status)


def _exit_code(arguments: list[str]) -> int:
    _speak_utf8()
    try:
        if arguments in ([], ["sessions"], ["config"]):  # a group alone asks what there is
            arguments = [*arguments, "--help"]
        status = app(arguments, prog_name="llmrun", standalone_mode=False)
        write("")  # a reader that left shows here, not after the last line of Python
        return status if isinstance(status, int) else 0
    except LlmrunError as error:
        return _fail(str(error), error.exit_code)
    except typer.TyperException as error:
        return _fail(error.format_message(), UsageError.exit_code)
    except MemoryError:
        return _fail("out of memory; try a smaller model or a shorter --ctx", OutOfMemory.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except (ReaderLeft, BrokenPipeError):
        # or Python complains when it closes standard output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0 if sys.platform == "win32" else EXIT_READER_LEFT


def _die_of(number: int) -> None:
    """End by a signal, as tools do that do not catch it; the shell makes 128 + its number of it.

    So a loop in a script ends at Ctrl-C, too: to the shell, a program that exits has dealt with the Ctrl-C itself.
    """
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _fail(message: str, exit_code: int) -> int:
    print(f"llmrun: error: {one_line(message)}", file=sys.stderr, flush=True)
    return exit_code


def _speak_utf8() -> None:
    """Write UTF-8 whatever the locale says: an answer may hold any character."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
