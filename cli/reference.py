"""`python -m llmrun.cli.reference` prints docs/cli.md, made from the commands themselves and the tree of errors."""

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import typer.main

from llmrun.cli.app import app
from llmrun.quant_formats import errors

HEAD = """\
# Command line

Made by `python -m llmrun.cli.reference > docs/cli.md`; do not edit. `llmrun COMMAND --help` shows the same.

MODEL is the path of a GGUF file or a name that `llmrun list` shows; a name that is not here yet is pulled first.
The answer goes to standard output, everything else to standard error.
`llmrun --install-completion` sets up completion for your shell.
"""


def reference() -> str:
    """The whole page, in Markdown."""
    group: Any = typer.main.get_command(app)
    commands = "\n".join(_command(name, command) for name, command in group.commands.items())
    return f"{HEAD}\n{commands}\n## Exit codes\n\n" + "\n".join(_exit_codes()) + "\n"


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join(
        [
            "llmrun",
            name,
            *(p.metavar if p.required else f"[{p.metavar}]" for p in arguments),
            "[OPTIONS]" if options else "",
        ]
    ).strip()
    lines = [f"## {usage}", "", *(line.strip() for line in inspect.cleandoc(command.help).splitlines()), ""]
    lines += ["| | |", "|---|---|"]
    lines += [f"| `{p.metavar}` | {p.help} |" for p in arguments]
    lines += [f"| `{_flag(p)}` | {p.help}{_default(p)} |" for p in options]
    return "\n".join(lines) + "\n"


def _flag(option: Any) -> str:
    return " ".join([", ".join(option.opts), option.metavar or ""]).strip()


def _default(option: Any) -> str:
    shown = option.default is not None and option.default is not False and option.default != []
    return f" Default: {option.default}." if shown else ""


def _exit_codes() -> Iterator[str]:
    yield from ("| code | means |", "|---|---|", "| 0 | done |")
    classes: list[type[errors.LlmrunError]] = [errors.LlmrunError, *errors.LlmrunError.__subclasses__()]
    for error in sorted(classes, key=lambda error: error.exit_code):
        yield f"| {error.exit_code} | {inspect.cleandoc(error.__doc__ or '').splitlines()[0]} |"
    yield f"| {errors.EXIT_INTERRUPTED} | Ctrl-C |"


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    sys.stdout.write(reference())
