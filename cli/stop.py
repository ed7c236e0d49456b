"""`llmrun stop`: have a server unload a model."""

from typing import Annotated

import typer

from llmrun.cli.say import say
from llmrun.cli.server_call import ServerAddress

LoadedName = Annotated[str, typer.Argument(metavar="MODEL", help="A name that `llmrun ps` shows.", show_default=False)]


def stop(model: LoadedName, host: ServerAddress = None) -> None:
    """Have a running server unload a model, once nobody uses it any more."""
    from llmrun.cli.server_call import call_server
    from llmrun.quant_formats.errors import UnknownModel

    loaded = [row["name"] for row in call_server(host, "/api/ps")["models"]]
    if model not in loaded and f"{model}:latest" not in loaded:
        names = ", ".join(loaded) or "none"
        raise UnknownModel(f"{model} is not loaded; the server has loaded {names}")
    call_server(host, "/api/generate", {"model": model, "keep_alive": 0, "stream": False})
    say(f"{model} is being unloaded")
