"""`llmrun serve`: the models of this machine for other programs, over HTTP."""

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmrun.cli.address import DEFAULT_PORT, Address
from llmrun.cli.options import KVTypeName, Threads, complete_model
from llmrun.cli.say import say
from llmrun.quant_formats.errors import UsageError

if TYPE_CHECKING:
    from llmrun.cli.server.serve_options import ServeOptions
    from llmrun.cli.settings import Settings
    from llmrun.runner.engine import Engine
    from llmrun.runner.model_host import HostOptions, ModelHost
    from llmrun.runner.model_plan import ModelPlan

KEY_VARIABLE = "LLMRUN_API_KEY"
SPLIT_PART = re.compile(r"-\d{5}-of-\d{5}$")
SHORTEST_KEY = 8  # characters

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL]",
        help="Models to load now and keep; installed ones are loaded when they are asked for.",
        show_default=False,
        autocompletion=complete_model,
    ),
]
Host = Annotated[
    str | None,
    typer.Option("--host", metavar="ADDRESS", help="Where to listen, HOST or HOST:PORT; default: 127.0.0.1."),
]
Port = Annotated[
    int | None, typer.Option("--port", metavar="N", min=0, max=65535, help="Default: 11434; 0 takes a free one.")
]
Context = Annotated[
    int | None,
    typer.Option("--ctx", metavar="N", help="Most tokens of one request; default: what the model knows and fits."),
]
Parallel = Annotated[
    int | None,
    typer.Option("--parallel", metavar="N", min=1, max=1024, help="Full contexts to have room for; short ones share."),
]
KeepAlive = Annotated[
    str | None,
    typer.Option(
        "--keep-alive",
        metavar="TIME",
        help="Unload a model that is idle for so long: 300, 5m or 1h; -1 never. Default: 5m, and never for MODEL.",
    ),
]
MaxQueue = Annotated[
    int | None, typer.Option("--max-queue", metavar="N", min=1, help="Requests that may wait; default: 512.")
]
MaxBody = Annotated[int, typer.Option("--max-body", metavar="MIB", min=1, help="Largest body of a request.")]
Timeout = Annotated[
    float | None, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="End requests that take longer.")
]
Grace = Annotated[
    float, typer.Option("--grace", metavar="SECONDS", min=0, help="How long running requests may go on at the end.")
]
ApiKey = Annotated[
    list[str] | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        help="A key that requests must carry; others can see it in the list of processes, so a file is better.",
        show_default=False,
    ),
]
ApiKeyFile = Annotated[
    str | None, typer.Option("--api-key-file", metavar="FILE", help="Keys that are accepted, one a line.")
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Let others on the network in without a key.")]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-origin", metavar="URL", help="A web page that may use the server; * for all.", show_default=False
    ),
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option("--allow-host", metavar="NAME", help="A name by which the server may be called.", show_default=False),
]
LogLevel = Annotated[
    str | None, typer.Option("--log-level", metavar="LEVEL", help="debug, info (default), warning or error.")
]
LogPrompts = Annotated[bool, typer.Option("--log-prompts", help="Log requests and answers in full.")]
MetricsSwitch = Annotated[bool, typer.Option("--metrics/--no-metrics", help="Numbers for Prometheus at /metrics.")]


def serve(
    models: Models = None,
    host: Host = None,
    port: Port = None,
    context: Context = None,
    parallel: Parallel = None,
    threads: Threads = None,
    kv_type: KVTypeName = None,
    keep_alive: KeepAlive = None,
    max_queue: MaxQueue = None,
    max_body: MaxBody = 32,
    timeout: Timeout = None,
    grace: Grace = 30.0,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
    insecure: Insecure = False,
    allow_origin: AllowOrigin = None,
    allow_host: AllowHost = None,
    log_level: LogLevel = None,
    log_prompts: LogPrompts = False,
    metrics: MetricsSwitch = True,
) -> None:
    """Serve the models of this machine to editors and other programs, by the APIs that they know.

    Ctrl-C lets running answers end, a second one does not. Of MODEL, the first is the one for requests that name none.
    """
    from llmrun.cli.server.serve_options import MIB, ServeOptions
    from llmrun.cli.settings import Settings, misspelt_variables

    for line in misspelt_variables():
        say(line)
    settings = Settings.load()
    address = _address(settings, host, port)
    options = ServeOptions(
        host=address.host,
        api_keys=tuple(read_keys(api_key or [], api_key_file or settings.get("api_key_file"))),  # type: ignore[arg-type]
        allow_origins=tuple(allow_origin or _list(settings, "allow_origin")),
        allow_hosts=tuple(allow_host or _list(settings, "allow_host")),
        max_body=max_body * MIB,
        timeout=timeout,
        grace=grace,
        metrics=metrics,
        log_prompts=log_prompts,
    )
    check_exposure(address, options, insecure)
    flags = {
        "n_ctx": context,
        "n_parallel": parallel,
        "n_threads": threads,
        "kv_type": kv_type,
        "keep_alive": keep_alive,
        "max_queue": max_queue,
    }
    _serve(address, options, models or [], flags, _level(settings, log_level))


def _serve(address: Address, options: "ServeOptions", models: list[str], flags: dict[str, Any], log_level: str) -> None:
    """Take the address, load the models, serve until a signal comes."""
    from llmrun.cli.server.app import make_app
    from llmrun.cli.server.http_server import HttpServer, listen, run_server
    from llmrun.cli.server.logs import start_logging

    named = _files(models)
    host_options(flags, None)  # what makes no sense is said before anything starts
    start_logging(log_level)
    listener = listen(address)
    url = dataclasses.replace(address, port=listener.getsockname()[1]).url
    keep_alive = math.inf if flags["keep_alive"] is None else host_options(flags, None).keep_alive

    async def main() -> None:
        host = _host(named, flags)

        async def prepare() -> None:
            for name in named:
                await host.preload(name, keep_alive)
            say(f"serving at {url}")

        await run_server(HttpServer(make_app(host, options), options), listener, prepare)

    import asyncio

    with contextlib.closing(listener):
        asyncio.run(main())


def _host(named: dict[str, Path], flags: dict[str, Any]) -> "ModelHost":
    from llmrun.runner.model_host import ModelHost

    return ModelHost(named, host_options(flags, None), _load, options_of=lambda name: host_options(flags, name))


def _load(path: Path, plan: "ModelPlan", options: "HostOptions") -> "Engine":
    """Load a model, and say so if that takes long, as it does where its kernels have to be compiled."""
    from llmrun.cli.progress_display import ProgressDisplay
    from llmrun.runner.model_host import load_planned

    with ProgressDisplay() as progress:
        return load_planned(path, plan, options, progress)


def host_options(flags: dict[str, Any], model: str | None) -> "HostOptions":
    """How a model is loaded: the flags over what the settings say of it. Raises UsageError."""
    from llmrun.cli.setting import setting_named
    from llmrun.cli.settings import Settings
    from llmrun.runner.keep_alive import DEFAULT_KEEP_ALIVE, keep_alive_seconds
    from llmrun.runner.model_host import HostOptions

    settings = Settings.load(model)
    names = {"n_ctx": "context", "n_parallel": "parallel", "n_threads": "threads"}
    values: dict[str, Any] = {
        name: settings.get(names.get(name, name)) if value is None else value for name, value in flags.items()
    }
    if values["kv_type"] is not None:
        setting_named("kv_type").check(values["kv_type"])
    keep_alive = values.pop("keep_alive")
    seconds = DEFAULT_KEEP_ALIVE if keep_alive is None else keep_alive_seconds(keep_alive)
    return HostOptions(**{name: value for name, value in values.items() if value is not None}, keep_alive=seconds)


def _address(settings: "Settings", host: str | None, port: int | None) -> Address:
    """Where to listen; a port of its own wins over one behind the host."""
    if port is None and host is None:
        port = settings.get("port")  # type: ignore[assignment]
    fallback: Any = settings.get("port") or DEFAULT_PORT
    address = Address.parse(host or str(settings.get("host") or Address.host), fallback)
    if address.scheme != "http":
        raise UsageError("the server speaks http; put a proxy that encrypts in front of it")
    return address if port is None else dataclasses.replace(address, port=port)


def check_exposure(address: Address, options: "ServeOptions", insecure: bool) -> None:
    """Raise UsageError for a server that anybody on the network could use, unless that is wanted."""
    from llmrun.cli.server.security import is_loopback

    if is_loopback(address.host) or options.api_keys or insecure:
        return
    raise UsageError(
        f"at {address.host} everybody on the network could use the server; give it a key with --api-key-file, or "
        "--insecure if that is what you want"
    )


def read_keys(given: Sequence[str], file: str | None) -> list[str]:
    """The keys of the command line, the file and the environment. Raises UsageError for what cannot be one."""
    keys = [*given]
    if file is not None:
        try:
            lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the keys in {file} cannot be read: {error}") from error
        keys += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not keys:
            raise UsageError(f"{file} has no key; write one a line")
    if variable := os.environ.get(KEY_VARIABLE):
        keys.append(variable)
    for key in keys:
        if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise UsageError(f"a key must have at least {SHORTEST_KEY} ASCII characters and no spaces")
    return keys


def _files(models: list[str]) -> dict[str, Path]:
    """The file of each MODEL, by the name that requests use: its own, or that of the file. Raises UsageError."""
    from llmrun.cli.loading import model_path
    from llmrun.runner.registry import Entry, find

    files: dict[str, Path] = {}
    for model in models:
        found = find(model)
        name = found.name if isinstance(found, Entry) else SPLIT_PART.sub("", found.stem)
        if name in files:
            raise UsageError(f"two models would have the name {name}; rename the file of one")
        files[name] = model_path(model)
    return files


def _list(settings: "Settings", name: str) -> list[str]:
    value = settings.get(name)
    return value if isinstance(value, list) else []


def _level(settings: "Settings", given: str | None) -> str:
    from llmrun.cli.setting import setting_named

    return str(setting_named("log_level").check(given or settings.get("log_level") or "info"))
