"""Kills processes that chat, at random moments, and looks at what is left.

    python killed_chats.py FOLDER KILLS SEED RESIDUALS

A process says, takes back and changes things in one session over and over, and writes into a journal what it is about
to do and what came of it. Once it is dead, the session must hold what the journal says was done, and may hold what
was being done; the one thing that may be missing is the answer in progress. Then the next one goes on with it.
RESIDUALS is how many blocks keep them; see `Model.residual_blocks`.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from recorded_chats import LetterModel, check_memory, engine, open_session, read

from llmrun.runner.chat_message import Message
from llmrun.runner.model import BlockContents
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.session import Session
from llmrun.runner.session_store import SessionStore

MAX_SECONDS = 0.08  # to live
MAX_MESSAGES = 40
N_CTX = 1024
PADDING = 1 << 19  # bytes, so that writing a block takes long enough to be hit


class FatModel(LetterModel):
    """Has large blocks."""

    kv_block_bytes = LetterModel.kv_block_bytes + PADDING

    def read_kv(self, block: int, out: np.ndarray) -> None:
        super().read_kv(block, out[:-PADDING])
        out[-PADDING:] = block

    def write_kv(self, block: int, data: BlockContents) -> None:
        super().write_kv(block, np.frombuffer(data, np.uint8)[:-PADDING])


def open_last(folder: Path, notices: list[str]) -> Session:
    """Open the session, whatever notice there is."""
    session = open_session(
        SessionStore(folder), notify=notices.append, model=FatModel(residual_blocks=int(sys.argv[4])), n_ctx=N_CTX
    )
    session.chat.overflow = "shift"
    return session


def chat(folder: Path, seed: int) -> None:
    """Chat until somebody puts an end to it."""
    rng = random.Random(seed)
    with open(folder / "journal", "wb", 0) as journal, open_last(folder, []) as session:
        while True:
            step = _step(rng, session)
            before = session.chat.messages
            journal.write(json.dumps({**step, "before": before}).encode() + b"\n")
            _do(session, step)
            journal.write(json.dumps({"op": "done", "before": session.chat.messages}).encode() + b"\n")


def _step(rng: random.Random, session: Session) -> dict[str, Any]:
    if not session.chat.messages:
        return {"op": "send", "text": _text(rng), "n": 20}
    if len(session.chat.messages) > MAX_MESSAGES:
        return {"op": "clear", "text": "", "n": 1}
    op = rng.choice(
        ["send"] * 6 + ["retry", "retry", "edit", "edit", "undo", "reopen", "cancel"] + ["clear"] * (rng.random() < 0.2)
    )
    return {"op": op, "text": _text(rng), "n": rng.choice((1, 20, 60)), "seed": rng.randrange(1000)}


def _text(rng: random.Random) -> str:
    return " ".join(rng.choice(("tea", "Käse", "天气", "and then?\n")) for _ in range(rng.choice((1, 5, 40))))


def _do(session: Session, step: dict[str, Any]) -> None:
    chat = session.chat
    params = SamplingParams(seed=step.get("seed"), max_tokens=step["n"])
    match step["op"]:
        case "send":
            read(chat.send(step["text"], params))
        case "cancel":
            generation = chat.send(step["text"], SamplingParams())
            for _ in range(step["n"]):
                next(generation)
            generation.cancel()
            read(generation)
        case "retry":
            read(chat.retry(params))
        case "edit":
            read(chat.edit(step["text"], params))
        case "undo":
            chat.undo()
        case "clear":
            chat.clear()
        case "reopen":
            session.flush()


def allowed(folder: Path) -> tuple[dict[str, Any], list[list[Message]]]:
    """What was being done, and all that may be on the disk now."""
    lines = (folder / "journal").read_bytes().split(b"\n")[:-1]  # the last one is empty or cut off
    if not lines:
        return {"op": "start"}, []
    step = json.loads(lines[-1])
    before, op = step["before"], step["op"]
    states = [before]
    users = [i for i, message in enumerate(before) if message["role"] == "user"]
    asked = {"role": "user", "content": step.get("text")}
    if op in ("send", "cancel"):
        if before and before[-1]["role"] == "user":
            before = [*before, {"role": "assistant", "content": ""}]
        states.append([*before, asked])
    elif op == "edit":
        states.append([*before[: users[-1]], asked])
    elif op == "undo":
        states.append(before[: users[-1]])
    elif op == "retry":
        states.append(before[: users[-1] + 1])
    elif op == "clear":
        states.append([])
    return step, states


def check(folder: Path, known: list[Message]) -> tuple[str, int]:
    """Look at what a killed process has left; returns what it was doing, and how many tokens were restored."""
    step, states = allowed(folder)
    states = states or [known]
    notices: list[str] = []
    session = open_last(folder, notices)
    with session:
        found = session.chat.messages
        with_answer = found != [] and found[:-1] in states[1:] and found[-1]["role"] == "assistant"
        if step["op"] == "retry" and found != states[0] and found == states[1]:
            raise AssertionError("the answer before is gone")
        if not with_answer and found not in states:
            raise AssertionError(f"{step}\n{found}\nis none of\n" + "\n".join(map(str, states)))
        if with_answer and found not in states:
            assert len(found[-1]["content"]) == step["n"], "half an answer"
        assert not [text for text in notices if "damaged" in text], notices
        check_memory(session)
        n_restored = len(session.chat.table.tokens)
        if random.random() < 0.2:
            generation = session.send("Well?", SamplingParams(temperature=0, max_tokens=10))
            fresh = engine(n_ctx=N_CTX).generate(generation.prompt_ids, SamplingParams(temperature=0, max_tokens=10))
            mine, wanted = read(generation), read(fresh)
            told = f"{mine!r} is another answer than {wanted!r}, the one without the restart"
            assert mine == wanted, f"{told}, after {len(generation.prompt_ids)} tokens, {n_restored} of them restored"
    return step["op"], n_restored


def start(folder: Path, seed: int) -> int:
    """Start a process that chats; returns its id."""
    if hasattr(os, "fork"):  # far faster than to import everything again
        pid = os.fork()
        if pid == 0:
            try:
                chat(folder, seed)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        return pid
    return subprocess.Popen([sys.executable, __file__, str(folder), "chat", str(seed), sys.argv[4]]).pid


def main() -> None:
    folder, seed = Path(sys.argv[1]), int(sys.argv[3])
    if sys.argv[2] == "chat":
        chat(folder, seed)
    rng, counts, n_restored = random.Random(seed), {}, 0
    known: list[Message] = []
    for i in range(int(sys.argv[2])):
        (folder / "journal").write_bytes(b"")
        pid = start(folder, rng.randrange(1 << 30))
        waits = rng.random() < 0.9  # the others are killed while they resume
        while waits and (folder / "journal").stat().st_size == 0:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, MAX_SECONDS))
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        if hasattr(os, "fork"):
            _, status = os.waitpid(pid, 0)
            assert os.WIFSIGNALED(status), f"process {i} ended by itself"
        op, n = check(folder, known)
        counts[op] = counts.get(op, 0) + 1
        n_restored += n
        session = SessionStore(folder).last()
        known = [] if session is None else _in_use(folder, session.id)
    print(json.dumps({"killed while": counts, "tokens restored": n_restored}))


def _in_use(folder: Path, session: str) -> list[Message]:
    stored = SessionStore(folder).stored_messages(session)
    return [one.message.plain for one in stored if one.place != "cleared"]


if __name__ == "__main__":
    main()
