"""A server that is ended in the middle of its work: by SIGTERM, and without a word; and conversations on the disk."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

LLMRUN = [sys.executable, "-c", "from llmrun.cli.app import main; main()"]
CHAT = "/v1/chat/completions"
WITHOUT_END = {"ignore_eos": True, "max_tokens": 100_000}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMRUN_HOME", str(tmp_path))
    return tmp_path


@contextlib.contextmanager
def served(model: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of its own process, and its address."""
    command = [*LLMRUN, "serve", str(model), "--port", "0", "--ctx", "2048", "--log-level", "error", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(process.stderr)
            assert "serving at " in line
            yield process, line.split()[-1]
        finally:
            process.kill()


def body(text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "", "messages": messages, "temperature": 0, "max_tokens": 5, **fields}


class Load:
    """Streams that are read until they end, whatever way; `begun` counts those of which something has come."""

    def __init__(self, url: str, bodies: list[dict[str, Any]]) -> None:
        self.url = url
        self.said = [""] * len(bodies)
        self.begun = threading.Semaphore(0)
        self.threads = [threading.Thread(target=self._read, args=(i, body)) for i, body in enumerate(bodies)]
        for thread in self.threads:
            thread.start()
        for _ in self.threads:
            assert self.begun.acquire(timeout=60)

    def _read(self, i: int, body: dict[str, Any]) -> None:
        asking = httpx.stream("POST", self.url + CHAT, json={**body, "stream": True}, timeout=60)
        with contextlib.suppress(httpx.TransportError), asking as answer:
            for text in answer.iter_text():
                if not self.said[i]:
                    self.begun.release()
                self.said[i] += text

    def join(self) -> list[str]:
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()
        return self.said


def call(*arguments: str) -> str:
    done = subprocess.run(
        [*LLMRUN, *arguments], capture_output=True, encoding="utf-8", stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kill_and_restart(smollm2_path: Path) -> None:
    run = ("run", str(smollm2_path), "--session", "sea", "--temp", "0", "--max-tokens", "5", "--ctx", "512")
    first = call(*run, "Tell me of the sea.")
    with served(smollm2_path) as (process, url):
        alone = httpx.post(url + CHAT, json=body("Why?"), timeout=60).json()["choices"][0]["message"]["content"]
        load = Load(url, [body(f"Story {i}", **WITHOUT_END) for i in range(8)])
        process.kill()
        assert process.wait(20) != 0
        assert all("[DONE]" not in said for said in load.join())
    before = json.loads(call("sessions", "show", "sea", "--json"))
    assert first.strip() in json.dumps(before, ensure_ascii=False)
    with served(smollm2_path) as (process, url):
        load = Load(url, [body(f"Story {i}", **WITHOUT_END) for i in range(3)])
        again = httpx.post(url + CHAT, json=body("Why?"), timeout=60).json()
        assert again["choices"][0]["message"]["content"] == alone
        call(*run, "And then?")  # another process goes on while the server works
        process.kill()
        load.join()
    assert call("sessions", "list").split()[0] == "sea"
    after = json.loads(call("sessions", "show", "sea", "--json"))
    assert len(after["messages"]) == len(before["messages"]) + 2
    assert after["messages"][: len(before["messages"])] == before["messages"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGTERM that a program could answer")
def test_sigterm_ends_short_answers_whole_and_tells_long_ones(smollm2_path: Path) -> None:
    short = [body(f"Story {i}", max_tokens=8) for i in range(6)]
    with served(smollm2_path, "--grace", "6") as (process, url):
        load = Load(url, [*short, body("A long one", **WITHOUT_END, n=16)])
        process.send_signal(signal.SIGTERM)
        *whole, cut = load.join()
        assert process.wait(30) == 0
    assert all(said.endswith("data: [DONE]\n\n") for said in whole)
    last = json.loads(cut.strip().split("\n\n")[-1].removeprefix("data: "))
    assert "shutting down" in last["error"]["message"]
