"""The models of a server: loaded when they are first asked for, unloaded when idle or when memory is needed."""

import asyncio
import contextlib
import functools
import gc
import hashlib
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

from llmrun.quant_formats.errors import MissingFile, OutOfMemory, QueueFull, Stopping, UnknownModel
from llmrun.runner.keep_alive import DEFAULT_KEEP_ALIVE, keep_alive_seconds
from llmrun.runner.lease import Lease
from llmrun.runner.loaded_model import KnownModel, LoadedModel
from llmrun.runner.memory import available_memory
from llmrun.runner.registry import entries, installed

if TYPE_CHECKING:
    from types import TracebackType

    from llmrun.runner.engine import Engine
    from llmrun.runner.engine_thread import ThreadObserver
    from llmrun.runner.model_plan import ModelPlan
    from llmrun.runner.registry import Progress

_log = logging.getLogger(__name__)

LATEST = ":latest"  # clients of Ollama add it to names without a tag
DIGEST_BYTES = 1 << 20
BUSY_SECONDS = 1.0  # until a model is looked at again whose time is over while it is computing


@dataclass(frozen=True)
class HostOptions:
    """How models are loaded; None leaves a value to the model and the memory that is there.

    n_ctx: most tokens of one prompt with its answer. n_parallel: such contexts that the cache has room for.
    keep_alive: seconds that an unused model stays loaded. max_queue: requests to one model that may wait.
    """

    n_ctx: int | None = None
    n_parallel: int | None = None
    n_threads: int | None = None
    kv_type: str | None = None
    keep_alive: float = DEFAULT_KEEP_ALIVE
    max_queue: int = 512


class _Slot:
    """The place of one model, from the first request for it until it is unloaded."""

    def __init__(self, known: KnownModel) -> None:
        self.known = known
        self.loading: asyncio.Task[LoadedModel] | None = None
        self.model: LoadedModel | None = None
        self.closing: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.n_waiting = 0  # requests that wait for it to be loaded

    @property
    def is_idle(self) -> bool:
        """Whether it is loaded and nobody uses it or is about to."""
        return self.model is not None and self.model.is_idle and not self.n_waiting


Load = Callable[[Path, "ModelPlan", HostOptions], "Engine"]
Plan = Callable[[Path, int, HostOptions], "ModelPlan"]


class ModelHost:
    """Loads, keeps and unloads models. Belongs to one event loop.

    Names are those of installed models and of the files that were given at the start; nothing else is looked up, so no
    name that a client makes up reaches the file system. One model is loaded at a time. A request for a model that does
    not fit unloads idle ones, the one unused for longest first.
    """

    def __init__(
        self,
        files: Mapping[str, Path] | None = None,
        options: HostOptions | None = None,
        load: Load | None = None,
        plan: Plan | None = None,
        options_of: Callable[[str], HostOptions] | None = None,
    ) -> None:
        """Nothing is loaded yet.

        files: the models given at the start, by name, the default one first. options_of: what holds for the model of a
        name instead of `options`. load and plan: how to load a file and what it takes; for tests.
        """
        self.options = options or HostOptions()
        self.observer: Callable[[str], ThreadObserver] | None = None
        """Makes whoever counts what a model of that name does, from its loading on."""
        self._options_of = options_of or (lambda _name: self.options)
        self._files = {name: KnownModel(name, path, _digest(path)) for name, path in (files or {}).items()}
        self._load, self._plan = load or load_planned, plan or _plan
        self._slots: dict[str, _Slot] = {}
        self._turn = asyncio.Lock()
        self._is_closed = False

    def known(self) -> list[KnownModel]:
        """The models that can be asked for: those given at the start, then the installed ones."""
        models = dict(self._files)
        for name, path in installed().items():
            models.setdefault(name, KnownModel(name, path, entries()[name].sha256))
        return list(models.values())

    def find(self, name: str | None) -> KnownModel:
        """The model of a name; None or "" asks for the default, the first there is.

        Raises UnknownModel for anything that `known` does not list.
        """
        known = {model.name: model for model in self.known()}
        if not name:
            if not known:
                raise UnknownModel("no model is here; fetch one with llmrun pull, or start llmrun serve with a file")
            return next(iter(known.values()))
        found = known.get(name) or known.get(name.removesuffix(LATEST))
        if found is None:
            raise UnknownModel(f"model {name[:100]!r} is not here; `llmrun list` shows what can be pulled")
        return found

    @contextlib.asynccontextmanager
    async def use(self, name: str | None, keep_alive: str | float | None = None) -> AsyncIterator[LoadedModel]:
        """`async with host.use(name) as loaded:`; see `lease`."""
        async with await self.lease(name, keep_alive) as model:
            yield model

    async def lease(self, name: str | None, keep_alive: str | float | None = None) -> Lease:
        """Have a model loaded, and keep it so until the lease is released.

        keep_alive: how long it is to stay loaded after that, as `keep_alive_seconds` reads it; 0 unloads it, None is
        what counts for this model.

        Raises UnknownModel, UsageError for a keep_alive that makes no sense, QueueFull, OutOfMemory, Stopping, and what
        `Engine.load` raises.
        """
        seconds = None if keep_alive is None else keep_alive_seconds(keep_alive)
        known = self.find(name)
        while True:
            if self._is_closed:
                raise Stopping("the server is shutting down")
            slot = self._slots.get(known.name)
            if slot is None:
                slot = self._slots[known.name] = _Slot(known)
            if slot.closing is not None:
                await asyncio.shield(slot.closing)
                continue
            model = slot.model or await self._wait_for(slot)
            # as nobody used it, it may be gone again by now
            if slot.model is model and slot.closing is None and not self._is_closed:
                self._acquire(slot, model)
                return Lease(model, functools.partial(self._release, slot, model, seconds))

    async def preload(self, name: str, keep_alive: float = math.inf) -> None:
        """Load a model, and keep it for so many seconds after its last use, or until memory is needed for others."""
        (await self.lease(name, keep_alive)).release()

    def loaded(self) -> list[LoadedModel]:
        """The models that are in memory."""
        return [slot.model for slot in self._slots.values() if slot.model is not None]

    def ps(self) -> list[LoadedModel]:
        """The models that are in memory, the one used last first."""
        return sorted(self.loaded(), key=lambda model: -model.last_used)

    @property
    def n_loading(self) -> int:
        """How many models are being loaded or wait for their turn."""
        return sum(slot.loading is not None for slot in self._slots.values())

    async def unload(self, name: str) -> bool:
        """Unload a model once nobody uses it any more; False if it is not loaded. Raises UnknownModel."""
        slot = self._slots.get(self.find(name).name)
        if slot is None or slot.model is None:
            return False
        slot.model.keep_alive = 0.0
        self._start_timer(slot, slot.model)
        if slot.closing is not None:
            await asyncio.shield(slot.closing)
        return True

    async def close(self, grace: float = 0.0) -> None:
        """Load nothing more, give running requests `grace` seconds, and unload everything."""
        self._is_closed = True
        slots = list(self._slots.values())
        for slot in slots:
            if slot.loading is not None:
                await asyncio.wait([slot.loading])
        await asyncio.gather(*(self._close(slot, grace) for slot in slots))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        await self.close()

    async def _wait_for(self, slot: _Slot) -> LoadedModel:
        """The model, once it is loaded; the loading goes on if whoever waits for it leaves."""
        if slot.n_waiting >= self.options.max_queue:
            raise QueueFull(f"{slot.n_waiting} requests are waiting for the model already; ask again later")
        if slot.loading is None:
            slot.loading = asyncio.create_task(self._load_into(slot))
            slot.loading.add_done_callback(_take_note)
        slot.n_waiting += 1
        try:
            model = await asyncio.shield(slot.loading)
        except BaseException:
            slot.n_waiting -= 1
            if slot.model is not None and not slot.n_waiting:  # it came just when the last one left
                self._start_timer(slot, slot.model)
            raise
        slot.n_waiting -= 1
        return model  # the caller takes it before anything else runs

    async def _load_into(self, slot: _Slot) -> LoadedModel:
        try:
            async with self._turn:
                if self._is_closed:
                    raise Stopping("the server is shutting down")
                options = self._options_of(slot.known.name)
                plan = await self._make_room(slot.known.path, options)
                started = time.perf_counter()
                engine = await asyncio.to_thread(self._load, slot.known.path, plan, options)
                seconds = time.perf_counter() - started
        except BaseException:
            del self._slots[slot.known.name]  # the next request tries again
            raise
        finally:
            slot.loading = None
        from llmrun.runner.engine_thread import EngineThread

        thread = EngineThread(engine, self.options.max_queue)
        if self.observer is not None:
            thread.observer = self.observer(slot.known.name)
        slot.model = LoadedModel(slot.known, thread, plan, seconds, keep_alive=self.options.keep_alive)
        _log.info("loaded", extra={"facts": {"model": slot.known.name, "ms": 1000 * seconds, "context": plan.n_ctx}})
        if not slot.n_waiting:
            self._start_timer(slot, slot.model)
        return slot.model

    async def _make_room(self, path: Path, options: HostOptions) -> "ModelPlan":
        """Plan for a model, after unloading as many idle ones as it takes; raises OutOfMemory if that is not enough."""
        while True:
            available = available_memory() - sum(model.reserved_bytes for model in self.loaded())
            try:
                return await asyncio.to_thread(self._plan, path, available, options)
            except OutOfMemory:
                idle = [slot for slot in self._slots.values() if slot.is_idle]
                if not idle:
                    raise
                await self._close(min(idle, key=_last_used))

    def _acquire(self, slot: _Slot, model: LoadedModel) -> None:
        model.n_users += 1
        model.last_used = time.monotonic()
        model.expires_at = None
        _stop_timer(slot)

    def _release(self, slot: _Slot, model: LoadedModel, keep_alive: float | None) -> None:
        model.n_users -= 1
        model.last_used = time.monotonic()
        if keep_alive is not None:
            model.keep_alive = keep_alive
        self._start_timer(slot, model)

    def _start_timer(self, slot: _Slot, model: LoadedModel) -> None:
        """Count the time that a model may stay unused from now on."""
        _stop_timer(slot)
        if model.n_users or slot.closing is not None:
            return
        if math.isinf(model.keep_alive):
            model.expires_at = None
        elif model.keep_alive <= 0 and model.is_idle:
            self._close_soon(slot)
        else:
            seconds = max(model.keep_alive, 0.0)
            model.expires_at = datetime.now(UTC) + timedelta(seconds=min(seconds, 1e9))
            slot.timer = asyncio.get_running_loop().call_later(seconds or BUSY_SECONDS, self._expire, slot, model)

    def _expire(self, slot: _Slot, model: LoadedModel) -> None:
        slot.timer = None
        if model.is_idle:
            self._close_soon(slot)
        elif model.n_users == 0:
            slot.timer = asyncio.get_running_loop().call_later(BUSY_SECONDS, self._expire, slot, model)

    def _close_soon(self, slot: _Slot) -> None:
        if slot.closing is None:
            slot.closing = asyncio.create_task(self._unload(slot, 0.0))

    async def _close(self, slot: _Slot, grace: float = 0.0) -> None:
        if slot.closing is None:
            slot.closing = asyncio.create_task(self._unload(slot, grace))
        await asyncio.shield(slot.closing)

    async def _unload(self, slot: _Slot, grace: float) -> None:
        """Take a model out of memory; its requests, if there are any left, are cancelled after `grace` seconds."""
        _stop_timer(slot)
        try:
            if slot.model is not None:
                await slot.model.engine_thread.close(grace)
                _log.info("unloaded", extra={"facts": {"model": slot.known.name}})
        finally:
            slot.model = None
            gc.collect()  # an engine and what it calls back refer to each other, and hold the memory until then
            self._slots.pop(slot.known.name, None)


def _take_note(loading: "asyncio.Task[LoadedModel]") -> None:
    """Log why a model could not be loaded, even if nobody waits for it any more."""
    if not loading.cancelled() and (error := loading.exception()) is not None:
        _log.warning("not loaded", extra={"facts": {"reason": str(error)}})


def _last_used(slot: _Slot) -> float:
    return slot.model.last_used if slot.model is not None else math.inf


def _stop_timer(slot: _Slot) -> None:
    if slot.timer is not None:
        slot.timer.cancel()
        slot.timer = None


def _plan(path: Path, available: int, options: HostOptions) -> "ModelPlan":
    from llmrun.runner.model_plan import ModelPlan

    return ModelPlan.of(path, available, options.n_ctx, options.n_parallel, options.kv_type)


def load_planned(path: Path, plan: "ModelPlan", options: HostOptions, progress: "Progress | None" = None) -> "Engine":
    """Load a file as it was planned; see `Engine.load`."""
    from llmrun.runner.engine import Engine

    return Engine.load(
        path,
        n_ctx=plan.n_ctx,
        n_threads=options.n_threads,
        progress=progress,
        n_parallel=plan.n_parallel,
        kv_type=options.kv_type,
    )


def _digest(path: Path) -> str:
    """What identifies a file without reading all of its gigabytes: the SHA-256 of its size and its first mebibyte.

    That part has the name, the sizes and the vocabulary. Raises MissingFile.
    """
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read(DIGEST_BYTES))
        digest.update(str(path.stat().st_size).encode())
    except OSError as error:
        raise MissingFile(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()
