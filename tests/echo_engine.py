"""The command line on the real engine with a model without weights: `python echo_engine.py chat MODEL ...`.

The model answers "say TEXT" with TEXT, in which \\n is a line break, and any other message with
"[instructions|number of messages before] message". Its tokens are bytes, so characters are cut between tokens.

Environment: ECHO_SLOW for the seconds between two tokens, ECHO_BASE=1 for a model without a chat template, ECHO_CTX for
the size of the context.
"""

import os
import re
import time

from mock_model import END, ByteTokenizer, MockModel, TurnTemplate, mock_engine

from llmrun.runner.engine import Engine

TURN = re.compile(r"<\|start\|>(\w+)\n(.*?)(?:<\|end\|>|$)", re.DOTALL)


class Template(TurnTemplate):
    source = "{{ a template }}"


def answer_to(turns: list[tuple[str, str]]) -> str:
    system = next((text for role, text in turns if role == "system"), None)
    said = [text for role, text in turns if role != "system"]
    if said[-1].startswith("say "):
        return said[-1].removeprefix("say ").replace("\\n", "\n")
    return f"[{system}|{len(said) - 1}] {said[-1]}"


def choose(history: list[int]) -> int:
    time.sleep(float(os.environ.get("ECHO_SLOW", "0")))
    if os.environ.get("ECHO_BASE"):
        return END if len(history) % 7 == 0 else ord("x")
    start = len(history) - history[::-1].index(256)  # where the role of the answer begins
    n_before = start + len(b"assistant\n")
    turns = TURN.findall(ByteTokenizer().decode(history[: start - 1]))
    ids = [*answer_to(turns).encode(), END]
    return ids[len(history) - n_before]


def load(_model: object, n_ctx: int | None = None, *_: object, **__: object) -> Engine:
    template = None if os.environ.get("ECHO_BASE") else Template()
    n_ctx = int(os.environ.get("ECHO_CTX", "0")) or n_ctx or 20_000
    return mock_engine(MockModel(choose, n_ctx_train=50_000), template, n_ctx=n_ctx)


if __name__ == "__main__":
    Engine.load = load  # type: ignore[method-assign,assignment]
    from llmrun.cli.app import main

    main()
