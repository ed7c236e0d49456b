"""`llmrun list`: the models known by name."""

import json

from llmrun.cli.options import Json


def list_models(as_json: Json = False) -> None:
    """Show the models that are here and those that can be pulled."""
    from llmrun.cli.say import human_bytes
    from llmrun.runner.registry import entries

    rows = list(entries().values())
    if as_json:
        keys = ("name", "description", "bytes", "license", "sha256")
        objects = [
            {key: getattr(entry, key) for key in keys} | {"path": str(entry.path) if entry.is_installed else None}
            for entry in rows
        ]
        print(json.dumps(objects, indent=2, ensure_ascii=False))
        return
    width = max(len(entry.name) for entry in rows)
    for entry in rows:
        state = "here" if entry.is_installed else "not pulled"
        print(f"{entry.name:{width}}  {human_bytes(entry.bytes):>9}  {state:10}  {entry.description}")
