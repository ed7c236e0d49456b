"""Who gets in and what is refused: Host, Origin, keys, bodies, names, broken HTTP, and what errors say."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from framed_server import FAMILIES, SECRET, Framed, framed

from llmrun.cli.address import Address
from llmrun.cli.serve import check_exposure, read_keys
from llmrun.cli.server.json_body import MAX_DEPTH
from llmrun.cli.server.security import Guard, Keys
from llmrun.cli.server.serve_options import ServeOptions
from llmrun.quant_formats.errors import UnknownModel, UsageError
from llmrun.runner.model_host import ModelHost

KEY = "correct-horse-battery"


@pytest.fixture(scope="module")
def server() -> Iterator[Framed]:
    with framed(ServeOptions(max_body=4096, grace=0, allow_origins=("https://chat.example",))) as server:
        yield server


@pytest.fixture(scope="module")
def locked() -> Iterator[Framed]:
    with framed(ServeOptions(api_keys=("another-key-here", KEY), grace=0)) as server:
        yield server


def guard(**options: Any) -> Guard:
    return Guard(lambda *_: None, ServeOptions(**options))  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:11434", "127.0.0.1", "127.8.8.8:1", "[::1]:11434", "a.localhost", "localhost."]
)
def test_names_of_this_machine_are_let_in(host: str) -> None:
    assert guard().allows_host(host)


@pytest.mark.parametrize(
    "host",
    ["", "evil.com", "evil.com:11434", "127.0.0.1.evil.com", "localhost.evil.com", "localhost@evil.com", "192.168.1.5",
     "evil.com/localhost", "localhost, evil.com", "[::1", "localhost:x", "0.0.0.0", "box"],
)  # fmt: skip
def test_foreign_names_are_not(host: str) -> None:
    assert not guard().allows_host(host)


def test_a_server_for_the_network_goes_by_its_addresses_and_the_names_it_was_given() -> None:
    on_network = guard(host="0.0.0.0", allow_hosts=("box.lan",))
    for host in ("192.168.1.5:11434", "[fe80::1]", "box.lan:80", "BOX.lan", "localhost"):
        assert on_network.allows_host(host)
    assert not on_network.allows_host("evil.com")  # made to point here
    assert guard(host="box.lan").allows_host("box.lan")


@pytest.mark.parametrize(
    "origin",
    ["http://localhost", "https://localhost:3000", "http://127.0.0.1:8080", "http://[::1]:1", "app://obsidian.md",
     "file://", "tauri://localhost", "http://tauri.localhost", "vscode-webview://1abc", "https://chat.example"],
)  # fmt: skip
def test_pages_of_this_machine_may_read_answers(server: Framed, origin: str) -> None:
    status, _, answer = server.ask("GET", "/health", headers={"Origin": origin})
    assert status == 200
    assert answer.getheader("access-control-allow-origin") == origin
    assert answer.getheader("vary") == "Origin"
    assert answer.getheader("access-control-allow-credentials") is None


@pytest.mark.parametrize(
    "origin",
    ["http://evil.com", "null", "https://localhost.evil.com", "http://127.0.0.1.evil.com", "http://evil.com:11434",
     "http://localhost@evil.com", "javascript:x", "http://192.168.1.5", "http://localhost:x", "https://chat.example.evil"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_pages_of_others_may_not_even_send(server: Framed, method: str, origin: str) -> None:
    body = b'{"text": "x"}' if method == "POST" else None
    headers = {"Origin": origin, "Content-Type": "text/plain", "Access-Control-Request-Method": "POST"}
    status, said, answer = server.ask(method, "/v1/t-echo", body, headers)
    assert status == 403
    assert said["error"]["type"] == "invalid_request_error"
    assert answer.getheader("access-control-allow-origin") is None


def test_a_foreign_host_is_refused_whatever_the_method(server: Framed) -> None:
    for method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS"):
        assert server.ask(method, "/health", headers={"Host": "rebound.evil.com"})[0] == 403
    assert server.raw(b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 403")
    two = b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.com\r\n\r\n"
    assert server.raw(two).startswith(b"HTTP/1.1 400")


def test_preflights_say_what_a_page_may_send(locked: Framed) -> None:
    headers = {
        "Origin": "http://localhost:3000",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
        "Access-Control-Request-Private-Network": "true",
    }
    status, _, answer = locked.ask("OPTIONS", "/v1/t-echo", headers=headers)  # without a key, as browsers do
    assert status == 204
    assert answer.getheader("access-control-allow-origin") == "http://localhost:3000"
    assert "POST" in answer.getheader("access-control-allow-methods", "")
    assert answer.getheader("access-control-allow-headers") == headers["Access-Control-Request-Headers"]
    assert answer.getheader("access-control-allow-private-network") == "true"


def test_keys(locked: Framed) -> None:
    body = {"text": "x"}
    for headers in ({"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {KEY}"}, {"X-Api-Key": KEY},
                    {"X-Api-Key": KEY, "Authorization": "Bearer another-key-here"}):  # fmt: skip
        assert locked.ask("POST", "/v1/t-echo", body, headers)[0] == 200
    for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": f"Bearer {KEY}x"}, {"X-Api-Key": KEY[:-1]},
                    {"Authorization": f"Basic {KEY}"}, {"X-Api-Key": KEY, "Authorization": "Bearer wrong"},
                    {"Authorization": "Bearer \xff\xfe"}):  # fmt: skip
        status, said, answer = locked.ask("POST", "/v1/t-echo", body, headers)
        assert status == 401
        assert answer.getheader("www-authenticate") == "Bearer"
        assert KEY not in str(said)
    assert locked.ask("GET", "/health")[0] == 200
    for path in ("/metrics", "/openapi.json", "/nothing", "/health/", "//health", "/v1/../health"):
        assert locked.ask("GET", path)[0] == 401
    assert locked.ask("POST", "/health")[0] == 401
    # a page must be able to read that its key is wrong
    _, _, answer = locked.ask("GET", "/metrics", headers={"Origin": "http://localhost:3000"})
    assert answer.getheader("access-control-allow-origin") == "http://localhost:3000"


def test_keys_come_from_file_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the editors\nfirst-key-1\n\n  second-key-2  \n")
    monkeypatch.setenv("LLMRUN_API_KEY", "third-key-3")
    assert read_keys(["zeroth-key"], str(file)) == ["zeroth-key", "first-key-1", "second-key-2", "third-key-3"]
    assert not Keys([])
    monkeypatch.delenv("LLMRUN_API_KEY")
    file.write_text("\n")
    for given, path in (([], str(file)), ([], str(tmp_path / "no")), (["short"], None), (["with a space"], None)):
        with pytest.raises(UsageError):
            read_keys(given, path)


def test_the_network_needs_a_key_or_a_clear_word() -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        check_exposure(Address(host), ServeOptions(), insecure=False)
    for host in ("0.0.0.0", "::", "192.168.1.5", "box.lan"):
        with pytest.raises(UsageError, match="--api-key-file"):
            check_exposure(Address(host), ServeOptions(), insecure=False)
        check_exposure(Address(host), ServeOptions(), insecure=True)
        check_exposure(Address(host), ServeOptions(api_keys=(KEY,)), insecure=False)


BAD_BODIES = {
    "not JSON": b'{"text": ',
    "empty": b"",
    "not an object": b"[1]",
    "not UTF-8": b'{"text": "\xff"}',
    "half a character": rb'{"text": "\ud83d"}',
    "half a character in a name": rb'{"text": "x", "inner": {"\udc00": 1}}',
    "a name twice": b'{"text": "a", "text": "b"}',
    "a name twice inside": b'{"text": "a", "inner": {"x": 1, "x": 1}}',
    "NaN": b'{"text": "a", "inner": {"x": NaN}}',
    "Infinity": b'{"text": "a", "inner": {"x": -Infinity}}',
    "a huge number": b'{"text": "a", "inner": {"x": 1e999}}',
    "many digits": b'{"text": "a", "number": ' + b"1" * 3000 + b"}",
    "depth": b'{"text": "a", "inner": {"x": ' + b"[" * 1500 + b"]" * 1500 + b"}}",
    "depth without an end": b"[" * 4000,
    "depth behind a string": b'{"text": "\\"]]", "inner": {"x": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}}",
    "a byte order mark": b'\xef\xbb\xbf{"text": "a"}',
    "an unknown field": b'{"text": "a", "txet": 1}',
    "a wrong type": b'{"text": "a", "number": "many"}',
    "a missing field": b"{}",
}


@pytest.mark.parametrize("prefix", FAMILIES)
@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_bodies(server: Framed, prefix: str, name: str) -> None:
    status, said, _ = server.ask("POST", f"{prefix}/t-echo", BAD_BODIES[name], {"Content-Type": "application/json"})
    assert status == 400
    message = message_of(said, FAMILIES[prefix])
    field = {"an unknown field": "txet", "a wrong type": "number", "a missing field": "text", "a name twice": '"text"'}
    assert field.get(name, "") in message


def message_of(said: Any, family: str) -> str:
    """The text of an error, after a look at the shape around it."""
    match family:
        case "ollama":
            (message,) = said.values()
        case "anthropic":
            assert said["type"] == "error"
            assert said["request_id"].startswith("req_")
            message = said["error"].pop("message")
            assert said["error"].keys() == {"type"}
        case "llama":
            message = said["error"].pop("message")
            assert said["error"].keys() >= {"code", "type"}
        case _:
            message = said["error"].pop("message")
            assert said["error"].keys() == {"type", "param", "code"}
    assert isinstance(message, str)
    return message


def test_what_looks_deep_is_not_always(server: Framed) -> None:
    flat = {"text": "[{" * 300, "inner": {"x": [[] for _ in range(200)], "y": '"\\[' * 50}}
    assert server.ask("POST", "/v1/t-echo", flat, {"Content-Type": "application/json"})[:2] == (
        200,
        flat | {"number": 0},
    )
    deep = b'{"text": "a", "inner": {"x": ' + b"[" * (MAX_DEPTH - 2) + b"]" * (MAX_DEPTH - 2) + b"}}"
    assert server.ask("POST", "/v1/t-echo", deep, {"Content-Type": "application/json"})[0] == 200


def test_types_of_bodies(server: Framed) -> None:
    body = '{"text": "ünï 👍"}'.encode()
    plain = (
        "application/json",
        "application/json; charset=utf-8",
        "application/x-www-form-urlencoded",
        "text/plain",
        "",
    )
    for kind in plain:
        assert server.ask("POST", "/v1/t-echo", body, {"Content-Type": kind})[1]["text"] == "ünï 👍"
    for kind in ("multipart/form-data; boundary=x", "image/png"):
        assert server.ask("POST", "/v1/t-echo", body, {"Content-Type": kind})[0] == 415


def test_bodies_that_are_too_large(server: Framed) -> None:
    head = b"POST /v1/t-echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    announced = server.raw(head + b"Content-Length: 99999999999999\r\n\r\n")
    assert announced.startswith(b"HTTP/1.1 413")
    chunk = b"400\r\n" + b" " * 0x400 + b"\r\n"
    assert server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 5).startswith(b"HTTP/1.1 413")
    at_limit = b'{"text": "%s"}' % (b"x" * (4096 - 12))
    assert server.ask("POST", "/v1/t-echo", at_limit, {"Content-Type": "application/json"})[0] == 200
    assert server.ask("POST", "/v1/t-echo", at_limit + b" ", {"Content-Type": "application/json"})[0] == 413


GARBAGE = {
    "binary": bytes(range(256)),
    "no version": b"GET /\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "a bad length": b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    "two lengths": b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a bad chunk": b"POST /v1/t-echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a bad header": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX y: \x00\r\n\r\n",
    "an endless header": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_gets_400_and_is_closed(server: Framed, name: str) -> None:
    if name == "an endless header":
        with server.connect() as connection, pytest.raises(ConnectionError):
            connection.sendall(GARBAGE[name] * 100)
        return
    assert server.raw(GARBAGE[name]).startswith(b"HTTP/1.1 400")


def test_pipelined_requests_are_answered_and_pipelined_garbage_is_not(server: Framed) -> None:
    good = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    said = server.raw(good * 3 + b"\x00garbage\r\n\r\n")
    assert said.count(b"HTTP/1.1 200 OK") == 3
    assert said.count(b"HTTP/1.1 400") == 1
    smuggled = b"POST /v1/t-echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    said = server.raw(smuggled + b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: evil.com\r\nConnection: close\r\n\r\n")
    assert b"HTTP/1.1 200" not in said


@pytest.mark.parametrize("prefix", FAMILIES)
def test_errors_have_the_shape_of_their_api_and_say_nothing_about_the_machine(
    server: Framed, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    family = FAMILIES[prefix]
    expected = {"usage": 400, "field": 400, "long": 400, "queue": 503, "memory": 503, "template": 400, "corrupt": 500}
    with caplog.at_level(logging.CRITICAL, "llmrun"):
        for name, code in (expected | {"bug": 500}).items():
            status, said, answer = server.ask("GET", f"{prefix}/t-raise/{name}")
            assert status == code
            assert SECRET not in str(said)
            assert "Traceback" not in str(said)
            assert (answer.getheader("retry-after") is not None) == (code == 503)
            message = message_of(said, family)
            if code == 500:
                assert answer.getheader("x-request-id", "none") in message
    assert server.ask("GET", f"{prefix}/t-nothing")[0] == 404
    status, said, _ = server.ask("GET", f"{prefix}/t-echo")
    assert status == 405
    message_of(said, family)


def test_details_that_clients_read(server: Framed) -> None:
    _, said, _ = server.ask("GET", "/llama/t-raise/long")
    assert said["error"] == {"code": 400, "message": "the prompt has 9 tokens", "type": "exceed_context_size_error",
                             "n_prompt_tokens": 9, "n_ctx": 8}  # fmt: skip
    _, said, _ = server.ask("GET", "/v1/t-raise/long")
    assert said["error"]["code"] == "context_length_exceeded"
    _, said, _ = server.ask("GET", "/v1/t-raise/field")
    assert said["error"]["param"] == "n"
    _, said, _ = server.ask("GET", "/v1/messages/t-raise/queue")
    assert said["error"]["type"] == "overloaded_error"


def test_no_page_of_the_documentation_is_fetched_from_elsewhere(server: Framed) -> None:
    assert server.ask("GET", "/docs")[0] == server.ask("GET", "/redoc")[0] == 404
    assert server.ask("GET", "/openapi.json")[0] == 200


@pytest.mark.parametrize(
    "name",
    ["../secret", "../../etc/passwd", "/etc/passwd", "..\\secret", "C:\\x", "a\0b", "known/../known", "./known",
     "known ", "~/x", "file:///etc/passwd", "\ud800", "KNOWN", "x" * 100_000, "known:latest:latest",
     "known:other", ":latest"],
)  # fmt: skip
def test_names_never_reach_the_file_system(name: str, tmp_path: Path) -> None:
    (tmp_path / "known.gguf").write_bytes(b"GGUF")
    (tmp_path / "secret").write_bytes(b"GGUF")
    host = ModelHost({"known": tmp_path / "known.gguf"})
    assert host.find("known").path == host.find("known:latest").path
    with pytest.raises(UnknownModel) as error:
        host.find(name)
    assert str(tmp_path) not in str(error.value)
    assert len(str(error.value)) < 400
