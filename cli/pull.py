"""`llmrun pull`: fetch a model by name."""

from typing import Annotated

import typer

from llmrun.cli.options import complete_model

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A name that `llmrun list` shows.", show_default=False, autocompletion=complete_model
    ),
]


def pull(name: Name) -> None:
    """Fetch a model by name, check it, and print where it is."""
    from llmrun.cli.loading import pull_entry
    from llmrun.runner.registry import entry_named

    print(pull_entry(entry_named(name)))
