"""`python -m llmrun.cli.reference` prints docs/cli.md, made from the commands themselves and the tree of errors."""

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import typer.main

from llmrun.cli.app import EXIT_READER_LEFT, app
from llmrun.quant_formats import errors

HEAD = """\
# Command line

Made by `python -m llmrun.cli.reference > docs/cli.md`; do not edit. `llmrun COMMAND --help` shows the same.

MODEL is the path of a GGUF file or a name that `llmrun list` shows; a name that is not here yet is pulled first.
The answer goes to standard output, everything else to standard error.
`llmrun --install-completion` sets up completion for your shell.
What is to hold for all runs can be set once: see [settings](settings.md).

On Linux and macOS, 130 and 141 are how a shell shows that the program was ended by the signal SIGINT or SIGPIPE.
"""


def reference() -> str:
    """The whole page, in Markdown."""
    group: Any = typer.main.get_command(app)
    commands = "\n".join(_command(name, command) for name, command in _commands(group))
    return f"{HEAD}\n{commands}\n## Exit codes\n\n" + "\n".join(_exit_codes()) + "\n"


def _commands(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """All commands with their full names, those of groups included."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join(
        [
            "llmrun",
            name,
            *((p.metavar if p.required else f"[{p.metavar}]") + ("..." if p.nargs < 0 else "") for p in arguments),
            "[OPTIONS]" if options else "",
        ]
    ).strip()
    lines = [f"## {usage}", "", *(line.strip() for line in inspect.cleandoc(command.help).splitlines()), ""]
    if not arguments and not options:
        return "\n".join(lines)
    lines += ["| | |", "|---|---|"]
    lines += [f"| `{p.metavar}` | {p.help} |" for p in arguments]
    lines += [f"| `{_flag(p)}` | {p.help}{_default(p)} |" for p in options]
    return "\n".join(lines) + "\n"


def _flag(option: Any) -> str:
    return " ".join([", ".join([*option.opts, *option.secondary_opts]), option.metavar or ""]).strip()


def _default(option: Any) -> str:
    shown = option.default is not None and option.default is not False and option.default != []
    return f" Default: {option.default}." if shown else ""


def _exit_codes() -> Iterator[str]:
    yield from ("| code | means |", "|---|---|", "| 0 | done |")
    yield "| 1 | any other error, such as no code block in the answer for --extract |"
    first: dict[int, type[errors.LlmrunError]] = {}
    for error in _below(errors.LlmrunError):
        first.setdefault(error.exit_code, error)
    for code, error in sorted(first.items()):
        yield f"| {code} | {inspect.cleandoc(error.__doc__ or '').splitlines()[0]} |"
    yield f"| {errors.EXIT_INTERRUPTED} | Ctrl-C; what was printed so far stays, and a session keeps it |"
    yield f"| {EXIT_READER_LEFT} | the program that reads the output has left, as `head -1` does |"


def _below(error: type[errors.LlmrunError]) -> Iterator[type[errors.LlmrunError]]:
    """The errors derived from one, level by level."""
    level = error.__subclasses__()
    while level:
        yield from level
        level = [below for error in level for below in error.__subclasses__()]


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    sys.stdout.write(reference())
