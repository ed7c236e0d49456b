"""How the server starts, how long it lets requests take, and how it stops: by signals and under load."""

import contextlib
import http.client
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import framed_server
import pytest
from framed_server import FAMILIES, Framed, framed, read_all

import llmrun.cli.server.connection as connection_module
from llmrun.cli.address import Address
from llmrun.cli.server.http_server import listen
from llmrun.cli.server.serve_options import ServeOptions
from llmrun.quant_formats.errors import AddressTaken, UsageError

LLMRUN = [sys.executable, "-c", "from llmrun.cli.app import main; main()"]
ON_WINDOWS = sys.platform == "win32"


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings, no key and no models of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("LLMRUN_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LLMRUN_HOME", str(tmp_path))
    framed_server.ended.clear()


def last_event(body: str, family: str) -> Any:
    """The error that a stream ends with, in the way of its API."""
    if family == "ollama":
        assert body.endswith("}\n")
        return json.loads(body.splitlines()[-1])
    assert body.endswith("}\n\n")
    event = body.split("\n\n")[-2]
    if family == "anthropic":
        assert event.startswith("event: error\n")
        event = event.removeprefix("event: error\n")
    return json.loads(event.removeprefix("data: "))


@pytest.mark.parametrize("prefix", FAMILIES)
def test_requests_that_take_too_long_end_with_an_error(prefix: str) -> None:
    family = FAMILIES[prefix]
    with framed(ServeOptions(timeout=0.3, grace=0)) as server:
        status, said, _ = server.ask("GET", f"{prefix}/t-stream?first=20")
        assert status == 504
        assert "0.3 seconds" in str(said)
        status, body, _ = server.ask("GET", f"{prefix}/t-stream?n=1000&wait=0.05")
        assert status == 200
        assert body.startswith('data: {"i": 0')
        assert "0.3 seconds" in str(last_event(body, family)["error"])
        until(lambda: framed_server.ended == ["cut"])
        assert server.ask("GET", f"{prefix}/t-stream?n=2")[1].count("data") == 2


def test_who_does_not_read_is_cut_off_and_nobody_else_waits() -> None:
    with framed(ServeOptions(stall=0.3, grace=0)) as server:
        with server.connect() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.sendall(b"GET /v1/t-stream?n=1000&size=4000000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            for _ in range(5):
                assert server.ask("GET", "/v1/t-stream?n=5")[1].count("data") == 5
            until(lambda: "cut" in framed_server.ended)
            until(lambda: server.app.state.lifecycle.n_running == 0)
            until(lambda: not server.server.server_state.connections)
        assert framed_server.ended.count("cut") == 1


def test_who_leaves_ends_the_stream() -> None:
    with framed() as server:
        with server.connect() as client:
            client.sendall(b"GET /v1/t-stream?n=100000&wait=0.005 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(1000)
        until(lambda: framed_server.ended == ["cut"])
        until(lambda: server.app.state.lifecycle.n_running == 0)


def test_bodies_and_heads_that_do_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "HEAD_SECONDS", 0.3)
    with framed(ServeOptions(stall=0.3, grace=0)) as server:
        begun = b"POST /v1/t-echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{"
        assert server.raw(begun).startswith(b"HTTP/1.1 408")
        assert server.raw(b"GET /health HT") == b""
        assert server.raw(b"") == b""
        with server.connect() as trickle:  # a byte now and then does not help
            end = time.monotonic() + 10
            with pytest.raises(OSError):  # noqa: PT011, PT012  # reset or broken pipe
                while time.monotonic() < end:
                    trickle.sendall(b"G")
                    time.sleep(0.05)
        slow = b"GET /v1/t-stream?n=3&wait=0.3 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert server.raw(slow).count(b"data: ") == 3  # an answer may take its time
        assert not server.server.server_state.connections


def test_bodies_that_are_too_much_together() -> None:
    with framed(ServeOptions(max_body=1000, stall=20, grace=0)) as server, contextlib.ExitStack() as stack:
        begun = b"POST /v1/t-echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n" + b" " * 900
        for _ in range(8):
            stack.enter_context(server.connect()).sendall(begun)
        until(lambda: len(server.server.server_state.tasks) == 8)
        body = {"text": "x" * 900}
        until(lambda: server.ask("POST", "/v1/t-echo", body)[0] == 503)
        stack.close()
        until(lambda: server.ask("POST", "/v1/t-echo", body)[0] == 200)


def test_stopping_lets_requests_end_and_takes_no_more() -> None:
    answers: list[Any] = []
    with framed(ServeOptions(grace=10)) as server:
        asking = threading.Thread(target=lambda: answers.append(server.ask("GET", "/v1/t-stream?n=10&wait=0.06")))
        asking.start()
        until(lambda: server.app.state.lifecycle.n_running == 1)
        assert server.ask("GET", "/health")[1] == {"status": "ok"}
        server.stop()
        until(lambda: server.app.state.lifecycle.state == "stopping")
        assert server.ask("GET", "/health")[:2] == (503, {"status": "shutting down"})
        status, said, answer = server.ask("GET", "/v1/t-stream")
        assert (status, answer.getheader("retry-after"), answer.getheader("connection")) == (503, "1", "close")
        assert "shutting down" in said["error"]["message"]
    asking.join()
    assert answers[0][1].count("data") == 10
    assert framed_server.ended == ["whole"]


@pytest.mark.parametrize("prefix", FAMILIES)
def test_streams_that_are_too_long_are_told(prefix: str) -> None:
    answers: list[Any] = []
    with framed(ServeOptions(grace=0.1)) as server:
        asking = threading.Thread(
            target=lambda: answers.append(server.ask("GET", f"{prefix}/t-stream?n=9999&wait=0.01"))
        )
        asking.start()
        until(lambda: server.app.state.lifecycle.n_running == 1)
        time.sleep(0.1)
    asking.join()
    assert "shutting down" in str(last_event(answers[0][1], FAMILIES[prefix]))


def test_loading_is_not_ready() -> None:
    with framed() as server:
        server.app.state.lifecycle.state = "loading"
        assert server.ask("GET", "/health")[:2] == (503, {"status": "loading model"})
        assert server.ask("HEAD", "/health")[0] == 503
        server.app.state.lifecycle.state = "ready"
        assert server.ask("HEAD", "/health")[0] == 200


@contextlib.contextmanager
def program(grace: float) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server in a process of its own, and its port."""
    script = str(Path(__file__).with_name("framed_server.py"))
    process = subprocess.Popen(
        [sys.executable, script, str(grace)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def streams(port: int, n: int, query: str) -> tuple[list[bytes], list[threading.Thread]]:
    """Begin to read so many streams; what each of them gave once its thread has ended."""
    said: list[bytes] = []

    def read() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(f"GET /v1/t-stream?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            first = connection.recv(65536)
            begun.release()
            said.append(first + read_all(connection))

    begun = threading.Semaphore(0)
    threads = [threading.Thread(target=read) for _ in range(n)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert begun.acquire(timeout=20)
    return said, threads


@pytest.mark.skipif(ON_WINDOWS, reason="Windows sends no SIGTERM that a program could answer")
def test_sigterm_under_load_lets_answers_end() -> None:
    with program(grace=20) as (process, port):
        said, threads = streams(port, 16, "n=20&wait=0.05")
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert process.wait(10) == 0
    assert [text.count(b"data: ") for text in said] == [20] * 16
    assert all(text.endswith(b"0\r\n\r\n") for text in said)


@pytest.mark.skipif(ON_WINDOWS, reason="Windows sends no SIGTERM that a program could answer")
@pytest.mark.parametrize("n_signals", [1, 2])
def test_sigterm_does_not_wait_for_ever(n_signals: int) -> None:
    with program(grace=0.2 if n_signals == 1 else 60) as (process, port):
        said, threads = streams(port, 4, "n=9999&wait=0.05")
        for _ in range(n_signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        assert process.wait(10) == 0
        for thread in threads:
            thread.join()
    assert all(b"shutting down" in text.split(b"data: ")[-1] for text in said)


@pytest.mark.skipif(ON_WINDOWS, reason="Ctrl-C goes to all programs of a console there")
def test_ctrl_c_stops_in_order_and_says_so() -> None:
    with program(grace=20) as (process, port):
        said, threads = streams(port, 1, "n=10&wait=0.05")
        process.send_signal(signal.SIGINT)
        threads[0].join()
        assert process.wait(10) == -signal.SIGINT  # Python's way to end by KeyboardInterrupt
    assert said[0].count(b"data: ") == 10


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LLMRUN, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    with listen(Address(port=0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressTaken, match=str(port)):
            listen(Address(port=port))
        done = serve("serve", "--port", str(port))
    assert done.returncode == AddressTaken.exit_code == 13
    assert done.stderr.count("\n") == 1
    assert str(port) in done.stderr
    assert "--port" in done.stderr


def test_what_makes_no_sense_is_said_before_anything_starts(tmp_path: Path) -> None:
    for arguments, code, words in (
        (["--host", "0.0.0.0"], 2, "--api-key-file"),
        (["--host", "https://localhost"], 2, "proxy"),
        (["--host", "a b"], 2, "address"),
        (["--keep-alive", "soon"], 2, "keep_alive"),
        (["--log-level", "loud"], 2, "log_level"),
        (["--api-key-file", str(tmp_path / "none")], 2, "cannot be read"),
        (["--api-key", "short"], 2, "8"),
        (["--kv-type", "q9"], 2, "kv_type"),
        ([str(tmp_path / "none.gguf")], 3, "no such file"),
    ):
        done = serve("serve", "--port", "0", *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
        assert words in done.stderr


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF, but no more")
    done = serve("serve", "--port", "0", "--log-level", "error", str(tmp_path / "broken.gguf"))
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("llmrun: error: ")


@pytest.mark.skipif(ON_WINDOWS, reason="Windows sends no SIGTERM that a program could answer")
def test_the_command_serves_a_real_model_and_ends(smollm2_path: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").symlink_to(smollm2_path)
    command = [*LLMRUN, "serve", str(tmp_path / "tiny.gguf"), "--port", "0", "--ctx", "256", "--parallel", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines = [next(process.stderr)]
            while "serving at" not in lines[-1]:
                lines.append(next(process.stderr))
            port = int(lines[-1].rpartition(":")[2])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/metrics")
            assert 'llmrun_kv_blocks{model="tiny"} 4.0' in connection.getresponse().read().decode()
            connection.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("text", "url"),
    [("127.0.0.1", "http://127.0.0.1:11434"), ("box:80", "http://box:80"), ("[::1]:5", "http://[::1]:5"),
     ("::1", "http://[::1]:11434"), ("0.0.0.0", "http://127.0.0.1:11434"), ("https://box.example", "https://box.example:443"),
     ("http://box:8080/", "http://box:8080")],
)  # fmt: skip
def test_addresses(text: str, url: str) -> None:
    assert Address.parse(text).url == url


@pytest.mark.parametrize("text", ["", "a b:x", "ftp://box", "box:99999", "http://box/path", ":80", "[::1", "a b"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="address"):
        Address.parse(text)


class _Fake(http.server.BaseHTTPRequestHandler):
    """What `ps` and `stop` see of a server."""

    models: list[dict[str, Any]] = [  # noqa: RUF012
        {"name": "tiny", "size": 985_769_216, "context_length": 8192, "expires_at": "2099-01-01T00:00:00+00:00"},
        {"name": "big\x1b[31m", "size": 5, "context_length": 4096, "expires_at": None},
    ]
    asked: list[Any] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self._answer({"models": self.models} if self.path == "/api/ps" else {"error": "no such page"})

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self._answer({"done": True})

    def _answer(self, value: Any) -> None:
        is_let_in = self.headers["authorization"] == "Bearer the-right-key"
        body = json.dumps(value if is_let_in else {"error": "the API key is wrong"}).encode()
        self.send_response(200 if is_let_in else 401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_ps_and_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Fake) as fake:
        threading.Thread(target=fake.serve_forever).start()
        place = f"127.0.0.1:{fake.server_port}"
        try:
            refused = serve("ps", "--host", place)
            assert (refused.returncode, refused.stdout) == (1, "")
            assert "the API key is wrong" in refused.stderr
            monkeypatch.setenv("LLMRUN_API_KEY", "the-right-key")
            monkeypatch.setenv("LLMRUN_HOST", place)
            monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
            head, tiny, big = serve("ps").stdout.splitlines()
            assert head.split() == ["NAME", "SIZE", "CONTEXT", "UNTIL"]
            assert tiny.split() == ["tiny", "985.8", "MB", "8192", "for", "ever"]
            assert "\x1b" not in big
            assert json.loads(serve("ps", "--json").stdout) == _Fake.models
            stopped = serve("stop", "tiny")
            assert (stopped.returncode, stopped.stdout) == (0, "")
            assert _Fake.asked == [{"model": "tiny", "keep_alive": 0, "stream": False}]
            unknown = serve("stop", "other")
            assert (unknown.returncode, unknown.stderr.count("\n")) == (3, 1)
            assert "tiny" in unknown.stderr
        finally:
            fake.shutdown()
    for command in (["ps"], ["stop", "tiny"]):
        done = serve(*command)
        assert (done.returncode, done.stderr.count("\n")) == (13, 1)
        assert "llmrun serve" in done.stderr


def test_running_a_model_does_not_import_the_server() -> None:
    code = (
        "import sys; import llmrun.cli.app, llmrun.runner.engine; "
        "slow = {'fastapi', 'uvicorn', 'starlette', 'pydantic', 'asyncio'}; print(slow & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_frames_are_not_left_over() -> None:
    before = threading.active_count()
    with framed() as server:
        assert isinstance(server, Framed)
        assert server.ask("GET", "/health")[0] == 200
    until(lambda: threading.active_count() <= before)
