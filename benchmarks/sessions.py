"""Going on with a conversation: from disk, next to llama.cpp's state files, and from one turn to the next.

Resuming: a chat with a long message and an answer is recorded and opened again, in an engine that was just loaded,
whose memory the system has not given yet, and once more in the same engine after its cache was emptied. llama.cpp makes
a context and reads a sequence file into it (`llama_state_seq_load_file`, what its server's slots use), then again into
the same context. Both read what the system has in memory of the files; ours also checks every byte. All take turns, and
who begins changes from round to round; the medians count.

Turns: the time to the first token of a long first message, and of a short second one.
"""

import argparse
import gc
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from machine import describe
from peer import Peer

from llmrun.runner.engine import Engine
from llmrun.runner.registry import resolve
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.session import Session
from llmrun.runner.session_info import SessionInfo
from llmrun.runner.session_store import SessionStore

PARAMS = SamplingParams(temperature=0, max_tokens=16)
TEXT = Path(__file__).parent.parent / "tests" / "english.txt"
PAUSE = 0.3  # seconds between measurements

Times = dict[str, list[float]]
"""Seconds in each round, by what was done."""


def no_notice(text: str) -> None:
    """Nothing may be computed again here."""
    raise SystemExit(f"not what was to be measured: {text}")


def long_text(engine: Engine, n_tokens: int) -> str:
    """About so many tokens of English."""
    text = TEXT.read_text(encoding="utf-8")
    once = len(engine.tokenize(text))
    text = "\n".join(f"{i}. {text}" for i in range(-(-n_tokens // once)))
    return text[: len(text) * n_tokens // len(engine.tokenize(text))]


def record(engine: Engine, store: SessionStore, n_tokens: int) -> tuple[SessionInfo, list[int], float]:
    """Hold a conversation; returns it, its ids, and how long the user waits for the disk at its end."""
    info = store.create("long", "benchmark")
    with Session.open(engine, store, info, PARAMS, notify=no_notice) as session:
        for _ in session.send(long_text(engine, n_tokens - 100)):
            pass
        start = time.perf_counter()
        session.flush()
        return session.info, session.chat.context_ids, time.perf_counter() - start


def resume(path: Path, options: argparse.Namespace, store: SessionStore, info: SessionInfo) -> tuple[float, float]:
    """Seconds to open a session in a new engine, and again with an empty cache."""
    seconds = []
    with Engine.load(path, n_ctx=options.ctx, n_threads=options.threads, kv_type=options.kv_type) as engine:
        for _ in range(2):
            engine.kv_cache.clear()
            start = time.perf_counter()
            session = Session.open(engine, store, info, PARAMS, notify=no_notice)
            seconds.append(time.perf_counter() - start)
            assert len(session.chat.table.tokens) == info.n_tokens - 1
            session.close()
    gc.collect()
    return seconds[0], seconds[1]


def compare(path: Path, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure both runners, round by round."""
    store = SessionStore(folder / "sessions")
    with Engine.load(path, n_ctx=options.ctx, n_threads=options.threads, kv_type=options.kv_type) as engine:
        info, ids, waited = record(engine, store, options.tokens)
    ours = sum(file.stat().st_size for file in (store.folder / "kv").rglob("*") if file.is_file())
    times: Times = {"llmrun, new engine": [], "llmrun, again": []}
    found: dict[str, Any] = {"tokens": len(ids), "bytes": {"llmrun": ours}, "flush": waited, "times": times}
    with ExitStack() as stack:
        peer = None
        if options.peer_python:
            peer = stack.enter_context(Peer(options.peer_python, path, options.threads, options.ctx))
            peer.prefill(ids)
            found["peer_save"] = peer.save_state(ids, folder / "state")
            found["bytes"]["llama.cpp"] = (folder / "state").stat().st_size
            found["peer"] = peer.about["version"]
            times |= {"llama.cpp, new context": [], "llama.cpp, again": []}
        for i in range(options.rounds):
            for runner in ("llmrun", "llama.cpp") if i % 2 else ("llama.cpp", "llmrun"):
                time.sleep(PAUSE)
                if runner == "llmrun":
                    new, again = resume(path, options, store, info)
                    times["llmrun, new engine"].append(new)
                    times["llmrun, again"].append(again)
                elif peer is not None:
                    new, again = peer.load_state(len(ids), folder / "state")
                    times["llama.cpp, new context"].append(new)
                    times["llama.cpp, again"].append(again)
    return found


def two_turns(path: Path, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds to the first token of a long first message and of a short second one, and what they computed."""
    seconds: Times = {"first": [], "second": []}
    computed: dict[str, int] = {}
    with Engine.load(path, n_ctx=options.ctx, n_threads=options.threads, kv_type=options.kv_type) as engine:
        text = long_text(engine, options.turn_tokens)
        for i in range(options.turn_rounds):
            engine.kv_cache.clear()
            store = SessionStore(folder / f"turns-{i}")
            with Session.open(engine, store, store.create(None, "benchmark"), PARAMS) as session:
                for name, said in (("first", text), ("second", "Which of these is the most important?")):
                    generation = session.send(said)
                    for _ in generation:
                        pass
                    seconds[name].append(generation.stats.t_first_token)
                    computed[name] = generation.stats.n_prompt - generation.stats.n_cached
    return {"seconds": seconds, "computed": computed}


def main() -> None:
    options = _parser().parse_args()
    path = resolve(options.model)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        resumed = compare(path, options, Path(name))
        turns = two_turns(path, options, Path(name))
    print(f"{describe()}\n{options.threads} threads, {options.rounds} rounds, peer: {resumed.get('peer')}\n")
    print(f"resuming {resumed['tokens']:,} tokens | median | fastest | slowest\n---|---|---|---")
    for what, seconds in resumed["times"].items():
        print(f"{what} | {median(seconds):.3f} s | {min(seconds):.3f} s | {max(seconds):.3f} s")
    print("\non disk: " + ", ".join(f"{runner} {n / 1e6:.1f} MB" for runner, n in resumed["bytes"].items()))
    print(f"written {resumed['flush']:.3f} s after the end of the answer", end="")
    print(f"; llama.cpp saves in {resumed['peer_save']:.3f} s" if "peer_save" in resumed else "")
    first, second = (median(turns["seconds"][turn]) for turn in ("first", "second"))
    counts = turns["computed"]
    print(
        f"\nfirst token of a turn: {first:.3f} s for {counts['first']:,} new tokens, then {second:.3f} s for", end=" "
    )
    print(f"{counts['second']:,} ({second / first:.3f} of the first)")
    if options.json:
        options.json.write_text(json.dumps({"resumed": resumed, "turns": turns}, indent=2) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", help="path of a GGUF file, or a name of models.toml")
    add("--peer-python", metavar="PATH", help="a Python that has llama-cpp-python")
    add("--threads", type=int, metavar="N", default=2, help="of each runner; default: %(default)s")
    add("--rounds", type=int, metavar="N", default=7, help="of resuming; default: %(default)s")
    add("--turn-rounds", type=int, metavar="N", default=3, help="of two turns; default: %(default)s")
    add("--tokens", type=int, metavar="N", default=8000, help="of the chat to resume; default: %(default)s")
    add("--turn-tokens", type=int, metavar="N", default=4000, help="of the first message; default: %(default)s")
    add("--ctx", type=int, metavar="N", default=8192, help="tokens of context; default: %(default)s")
    add("--kv-type", metavar="TYPE", help="of our keys and values; llama.cpp's are f16")
    add("--folder", type=Path, metavar="FOLDER", help="where to write; default: the system's temporary folder")
    add("--json", type=Path, metavar="FILE", help="where to write all numbers")
    return parser


if __name__ == "__main__":
    main()
