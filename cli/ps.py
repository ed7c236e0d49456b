"""`llmrun ps`: the models that a server has loaded."""

import json
from datetime import UTC, datetime
from typing import Any

from llmrun.cli.options import Json
from llmrun.cli.server_call import ServerAddress
from llmrun.cli.standard_output import write


def ps(host: ServerAddress = None, as_json: Json = False) -> None:
    """Show the models that a running server has loaded, and for how long."""
    from llmrun.cli.say import human_bytes, one_line
    from llmrun.cli.server_call import call_server

    models = call_server(host, "/api/ps")["models"]
    if as_json:
        write(json.dumps(models, indent=2, ensure_ascii=False) + "\n")
        return
    rows = [("NAME", "SIZE", "CONTEXT", "UNTIL")]
    for model in models:
        size, context = human_bytes(model["size"]), str(model.get("context_length", ""))
        rows.append((one_line(model["name"]), size, context, _until(model)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        write("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]) + "\n")


def _until(model: dict[str, Any]) -> str:
    """When a model is unloaded, in words."""
    text = model.get("expires_at")
    if not text:
        return "in use or for ever"
    seconds = (datetime.fromisoformat(text) - datetime.now(UTC)).total_seconds()
    if seconds > 10 * 365 * 86400:
        return "for ever"
    minutes = round(seconds / 60)
    return f"{minutes} minutes from now" if minutes > 1 else f"{max(0, round(seconds))} seconds from now"
