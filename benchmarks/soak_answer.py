"""What a reply says, without what is different each time: ids, times, and what was in the cache."""

import json
from typing import Any

from soak_client import Reply

VARIES = {
    "id", "item_id", "call_id", "created", "created_at", "completed_at", "sequence_number", "obfuscation", "request_id",
    "timings", "total_duration", "load_duration", "prompt_eval_duration", "eval_duration",
    "cached_tokens", "tokens_cached", "cache_read_input_tokens", "cache_creation_input_tokens",
}  # fmt: skip
GROWING = {"content", "text", "thinking", "reasoning_content", "response", "arguments", "delta", "partial_json"}
"""Texts of which each event of a stream has the next piece; how much of it depends on who else is being answered."""

Answer = dict[str, Any]


def answer_of(reply: Reply) -> Answer:
    """The answer as paths and their values; those of two replies are equal if, and only if, they say the same.

    Raises ValueError for a stream that does not end as its API says, or what is no JSON at all.
    """
    if reply.kind == "text/event-stream":
        events = _events(reply.body)
    elif reply.kind == "application/x-ndjson":
        events = [json.loads(line) for line in reply.body.splitlines()]
        if events[-1].get("done") is not True and "error" not in events[-1]:
            raise ValueError("the last line is not done")
    else:
        return {"": _without(json.loads(reply.body))}
    answer: Answer = {}
    for event in events:
        place = "/".join(str(event[key]) for key in ("type", "output_index", "content_index", "index") if key in event)
        _add(answer, place, event)
    return answer


def _events(body: bytes) -> list[Any]:
    blocks = body.decode().strip().split("\n\n")
    datas = [line[6:] for block in blocks for line in block.split("\n") if line.startswith("data: ")]
    if datas[-1] == "[DONE]":
        return [json.loads(data) for data in datas[:-1]]
    last = json.loads(datas[-1])
    ends = ("message_stop", "response.completed", "response.incomplete", "error")
    if last.get("stop") is not True and last.get("type") not in ends and "error" not in last:
        raise ValueError(f"the last event is {datas[-1][:100]}")
    return [json.loads(data) for data in datas]


def _add(answer: Answer, place: str, value: Any) -> None:
    """Fold an event into what the ones before said."""
    name = place.rpartition("/")[2]
    if isinstance(value, dict):
        for key, member in _members(value).items():
            _add(answer, f"{place}/{key}", member)
    elif isinstance(value, list) and ("logprobs" in place or name in ("completion_probabilities", "tokens")):
        answer[place] = answer.get(place, []) + value
    elif isinstance(value, list):
        for i, member in enumerate(value):
            index = member.get("index", i) if isinstance(member, dict) else i
            _add(answer, f"{place}/{index}", member)
    elif isinstance(value, str) and name in GROWING:
        answer[place] = answer.get(place, "") + value
    elif value is not None:
        answer[place] = value


def _without(value: Any) -> Any:
    """The value without the members that vary."""
    if isinstance(value, dict):
        return {key: _without(member) for key, member in _members(value).items()}
    return [_without(member) for member in value] if isinstance(value, list) else value


def _members(value: dict[str, Any]) -> dict[str, Any]:
    """Those that do not vary. In one of the APIs, the tokens of the prompt are those that were not in the cache."""
    members = {key: member for key, member in value.items() if key not in VARIES}
    if "cache_read_input_tokens" in value and "input_tokens" in value:
        members["input_tokens"] = value["input_tokens"] + (value["cache_read_input_tokens"] or 0)
    return members
