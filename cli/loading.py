"""From the MODEL of a command line to a file and an engine, with everything the user should see on the way."""

from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.cli.progress_display import ProgressDisplay
from llmrun.cli.say import human_bytes, say
from llmrun.runner.registry import Entry, find, pull

if TYPE_CHECKING:
    from llmrun.runner.engine import Engine


def model_path(model: str) -> Path:
    """The file of MODEL; a named model that is not here yet is pulled."""
    found = find(model)
    return pull_entry(found) if isinstance(found, Entry) else found


def pull_entry(entry: Entry) -> Path:
    """Fetch a model unless it is here, and say under which licence."""
    if entry.is_installed:
        return entry.path
    say(f"pulling {entry.name}, {human_bytes(entry.bytes)}. Licence: {entry.license}")
    with ProgressDisplay() as progress:
        path = pull(entry.name, progress)
    if entry.terms_path is not None:
        say(f"the terms of the licence are kept beside the model, in {entry.terms_path}")
    return path


def load_engine(model: str, context: int | None, threads: int | None, kv_type: str | None) -> "Engine":
    """Load MODEL; the first time on a machine this compiles the kernels, and a bar says so."""
    path = model_path(model)
    from llmrun.runner.engine import Engine

    with ProgressDisplay() as progress:
        return Engine.load(path, n_ctx=context, n_threads=threads, progress=progress, kv_type=kv_type)
