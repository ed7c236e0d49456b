"""A conversation as a text for people or for programs."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmrun.quant_formats.errors import UsageError
from llmrun.runner.session_info import SessionInfo

if TYPE_CHECKING:
    from llmrun.runner.session_store import StoredMessage

FORMATS = ("markdown", "json", "text")

_SPEAKERS = {"user": "You", "assistant": "Model"}


def export(info: SessionInfo, messages: Sequence["StoredMessage"], format: str) -> str:
    """The whole conversation, what is out of the context by now included; raises UsageError for an unknown format."""
    match format:
        case "markdown":
            return _markdown(info, messages)
        case "json":
            return _json(info, messages)
        case "text":
            return _text(info, messages)
    raise UsageError(f"sessions cannot be exported as {format!r}; choose one of {', '.join(FORMATS)}")


def _markdown(info: SessionInfo, messages: Sequence["StoredMessage"]) -> str:
    about = f"{info.model}, {info.created:%Y-%m-%d %H:%M} to {info.updated:%Y-%m-%d %H:%M}"
    parts = [f"# {info.name or info.title or info.id}", f"*{about}*"]
    if info.system:
        parts.append(f"## System\n\n{info.system}")
    parts += [f"## {_speaker(stored)}\n\n{stored.message.content}" for stored in messages]
    return "\n\n".join(parts) + "\n"


def _text(info: SessionInfo, messages: Sequence["StoredMessage"]) -> str:
    parts = [f"System: {info.system}"] if info.system else []
    parts += [f"{_speaker(stored)}: {stored.message.content}" for stored in messages]
    return "\n\n".join(parts) + "\n"


def _json(info: SessionInfo, messages: Sequence["StoredMessage"]) -> str:
    value = {
        "id": info.id,
        "name": info.name,
        "title": info.title,
        "model": info.model,
        "system": info.system,
        "settings": dict(info.settings),
        "created": info.created.isoformat(),
        "updated": info.updated.isoformat(),
        "messages": [{**stored.message.plain, "in_context": stored.place == "context"} for stored in messages],
    }
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _speaker(stored: "StoredMessage") -> str:
    role = stored.message.role
    return _SPEAKERS.get(role, role.capitalize())
