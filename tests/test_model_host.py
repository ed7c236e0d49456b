"""Models on demand: loading once, keeping, unloading by time and by memory, and names."""

import asyncio
import gc
import math
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from mock_model import MockModel, mock_engine

import llmrun.runner.model_host as module
from llmrun.quant_formats.errors import (
    CorruptFile,
    MissingFile,
    OutOfMemory,
    QueueFull,
    Stopping,
    UnknownModel,
    UsageError,
)
from llmrun.runner.engine import Engine
from llmrun.runner.keep_alive import keep_alive_seconds
from llmrun.runner.model_host import HostOptions, LoadedModel, ModelHost
from llmrun.runner.model_plan import ModelPlan
from llmrun.runner.sampler import SamplingParams

MIB = 1 << 20


class Machine:
    """Memory for `room` models, each without weights."""

    def __init__(self, folder: Path, names: str, room: int = 99, **options: Any) -> None:
        self.room = room
        self.models: dict[str, MockModel] = {}
        self.loads: list[str] = []
        self.at_once = self.most_at_once = 0
        self.gate: threading.Event | None = None  # loading waits for it
        self.failure: Exception | None = None
        files = {name: folder / f"{name}.gguf" for name in names}
        for path in files.values():
            path.write_bytes(b"GGUF" + path.stem.encode())
        self.host = ModelHost(files, HostOptions(**options), load=self.load, plan=self.plan)

    def load(self, path: Path, plan: ModelPlan, _options: HostOptions) -> Engine:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        if self.gate is not None:
            assert self.gate.wait(20)
        time.sleep(0.01)
        self.at_once -= 1
        self.loads.append(path.stem)
        if self.failure is not None:
            raise self.failure
        self.models[path.stem] = MockModel(lambda _history: ord("x"))
        return mock_engine(self.models[path.stem], n_ctx=plan.n_ctx)

    def plan(self, _path: Path, _available: int, _options: HostOptions) -> ModelPlan:
        if sum(not model.is_closed for model in self.models.values()) >= self.room:
            raise OutOfMemory("no room")
        return ModelPlan(MIB, MIB, 256, 1)

    @property
    def loaded(self) -> set[str]:
        return {model.name for model in self.host.loaded()}


Test = Callable[[Machine], Coroutine[Any, Any, None]]


def with_machine(machine: Machine, test: Test) -> None:
    """Run a test, and check that everything is given back in the end."""

    async def run() -> None:
        async with machine.host:
            await asyncio.wait_for(test(machine), 30)

    asyncio.run(run())
    assert all(model.is_closed for model in machine.models.values())
    assert not machine.host.loaded()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_model_is_loaded_once_for_all_who_ask(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        leases = await asyncio.gather(*(machine.host.lease("a") for _ in range(20)))
        assert machine.loads == ["a"]
        assert len({id(lease.model) for lease in leases}) == 1
        assert leases[0].model.n_users == 20
        for lease in leases:
            lease.release()
            lease.release()
        assert leases[0].model.n_users == 0
        assert leases[0].model.load_seconds > 0

    with_machine(Machine(tmp_path, "a"), test)


def test_one_model_is_loaded_at_a_time(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        leases = await asyncio.gather(*(machine.host.lease(name) for name in "abcd"))
        assert {lease.model.name for lease in leases} == machine.loaded == set("abcd")
        assert machine.most_at_once == 1
        assert {model.name for model in machine.host.ps()} == set("abcd")

    with_machine(Machine(tmp_path, "abcd"), test)


def test_the_default_model_is_the_first(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "ba")
    assert machine.host.find(None).name == machine.host.find("").name == "b"
    assert [model.name for model in machine.host.known()][:2] == ["b", "a"]
    digests = {model.digest for model in machine.host.known()}
    assert len(digests) == len(machine.host.known())
    assert machine.host.find("a").size == 5
    machine.host.find("a").path.unlink()
    with pytest.raises(MissingFile):
        _ = machine.host.find("a").size
    with pytest.raises(UnknownModel, match="llmrun list"):
        machine.host.find("c")


def test_a_model_that_is_not_used_goes_after_its_time(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        async with machine.host.use("a") as model:
            await asyncio.sleep(0.1)
            assert model.expires_at is None
            assert machine.loaded == {"a"}
        assert model.expires_at is not None
        await asyncio.sleep(0.02)
        async with machine.host.use("a") as again:
            assert again is model
        await until(lambda: not machine.loaded)
        async with machine.host.use("a") as other:
            assert other is not model
        assert machine.loads == ["a", "a"]

    with_machine(Machine(tmp_path, "a", keep_alive=0.05), test)


def test_keep_alive_of_a_request(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        async with machine.host.use("a", -1):
            pass
        await asyncio.sleep(0.08)
        async with machine.host.use("a") as model:  # who does not say how long leaves it as it is
            pass
        await asyncio.sleep(0.08)
        assert machine.loaded == {"a"}
        assert model.expires_at is None
        async with machine.host.use("a", "0"), machine.host.use("a", 0):
            pass
        await until(lambda: not machine.loaded)
        with pytest.raises(UsageError, match="keep_alive"):
            await machine.host.lease("a", "soon")
        await machine.host.preload("a")
        await asyncio.sleep(0.08)
        assert machine.loaded == {"a"}
        assert await machine.host.unload("a")
        assert not machine.loaded
        assert not await machine.host.unload("a")

    with_machine(Machine(tmp_path, "a", keep_alive=0.03), test)


def test_a_server_that_keeps_nothing_still_answers(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        async def ask() -> None:
            async with machine.host.use("a") as model:
                assert model.engine.n_ctx == 256
                await asyncio.sleep(0)

        for _ in range(5):
            await asyncio.gather(*(ask() for _ in range(5)))
        await until(lambda: not machine.loaded)

    with_machine(Machine(tmp_path, "a", keep_alive=0), test)


def test_what_is_still_computed_keeps_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.01)

    async def test(machine: Machine) -> None:
        async with machine.host.use("a", 0) as model:
            stream = model.engine_thread.submit(list(b"go on"), SamplingParams(temperature=0))
        pieces = [piece async for pieces in stream for piece in pieces]
        assert stream.finish_reason == "context"
        assert len(pieces) == 256 - 5
        del stream, model
        await until(lambda: not machine.loaded)

    with_machine(Machine(tmp_path, "a"), test)


def test_the_idle_model_that_was_used_least_recently_makes_room(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        for name in "abca":
            async with machine.host.use(name):
                pass
        async with machine.host.use("d"):
            assert machine.loaded == {"c", "a", "d"}
            async with machine.host.use("c"), machine.host.use("b"):
                assert machine.loaded == {"c", "b", "d"}
                with pytest.raises(OutOfMemory):  # all are in use
                    await machine.host.lease("a")
                assert machine.loaded == {"c", "b", "d"}
            async with machine.host.use("a"):
                assert machine.loaded == {"d", "a", "c"}

    with_machine(Machine(tmp_path, "abcd", room=3), test)


def test_cache_that_is_not_written_yet_is_not_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(module, "available_memory", lambda: 100 * MIB)

    async def test(machine: Machine) -> None:
        plan = machine.host._plan
        machine.host._plan = lambda path, available, options: seen.append(available) or plan(path, available, options)  # type: ignore[func-returns-value]
        async with machine.host.use("a"), machine.host.use("b"):
            pass
        assert seen == [100 * MIB, 99 * MIB]

    with_machine(Machine(tmp_path, "ab"), test)


def test_a_model_that_cannot_be_loaded_is_tried_again(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        machine.failure = CorruptFile("damaged")
        results = await asyncio.gather(*(machine.host.lease("a") for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [CorruptFile] * 3
        assert machine.loads == ["a"]
        machine.failure = None
        async with machine.host.use("a"):
            assert machine.loaded == {"a"}

    with_machine(Machine(tmp_path, "a"), test)


def test_loading_goes_on_when_who_asked_leaves(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        machine.gate = threading.Event()
        tasks = [asyncio.create_task(machine.host.lease("a")) for _ in range(2)]
        await asyncio.sleep(0.02)
        assert machine.host.n_loading == 1
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        machine.gate.set()
        await until(lambda: machine.loaded == {"a"})
        await until(lambda: not machine.loaded)  # and the time of a model that nobody uses runs
        assert machine.loads == ["a"]

    with_machine(Machine(tmp_path, "a", keep_alive=0.05), test)


def test_so_many_may_wait_for_a_model(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        machine.gate = threading.Event()
        tasks = [asyncio.create_task(machine.host.lease("a")) for _ in range(5)]
        await asyncio.sleep(0.02)
        assert [type(task.exception()) for task in tasks if task.done()] == [QueueFull] * 2
        machine.gate.set()
        await asyncio.wait(tasks)
        assert sum(task.exception() is None for task in tasks) == 3

    with_machine(Machine(tmp_path, "a", max_queue=3), test)


def test_a_lease_that_is_lost_is_given_back(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        lease = await machine.host.lease("a")
        model = lease.model
        lost = threading.Thread(target=lambda box: box.clear(), args=([lease],))
        del lease
        lost.start()
        lost.join()
        del lost
        gc.collect()
        await until(lambda: model.n_users == 0)

    with_machine(Machine(tmp_path, "a"), test)


def test_closing_ends_what_runs_and_takes_nothing_more(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        machine.models["slow"] = MockModel()
        lease = await machine.host.lease("a")
        stream = lease.model.engine_thread.submit(list(b"go on"), SamplingParams(temperature=0))
        machine.gate = threading.Event()
        late = asyncio.create_task(machine.host.lease("b"))
        await asyncio.sleep(0.02)
        closing = asyncio.create_task(machine.host.close(0))
        await asyncio.sleep(0.02)
        with pytest.raises(Stopping):
            await machine.host.lease("c")
        machine.gate.set()
        await closing
        assert not machine.loaded
        _ = [pieces async for pieces in stream]
        assert stream.finish_reason in ("cancelled", "context")
        with pytest.raises(Stopping):
            await late
        machine.models["slow"].close()

    with_machine(Machine(tmp_path, "abc"), test)


def test_options_of_each_model(tmp_path: Path) -> None:
    seen: list[HostOptions] = []

    def plan(_path: Path, _available: int, options: HostOptions) -> ModelPlan:
        seen.append(options)
        raise OutOfMemory("enough")

    async def test() -> None:
        (tmp_path / "a.gguf").write_bytes(b"GGUF")
        options = HostOptions(n_ctx=77)
        host = ModelHost(
            {"a": tmp_path / "a.gguf"}, plan=plan, options_of=lambda name: options if name == "a" else HostOptions()
        )
        with pytest.raises(OutOfMemory):
            await host.lease("a")
        assert seen == [options]

    asyncio.run(test())


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(0, 0), ("0", 0), (300, 300), ("300", 300), ("5m", 300), ("1h30m", 5400), ("1.5h", 5400), ("10s", 10),
     ("500ms", 0.5), (-1, math.inf), ("-1", math.inf), ("-1m", math.inf), (0.5, 0.5), (" 24h ", 86400), ("+5s", 5),
     ("1e3", None), ("", None), ("5 m", None), ("m", None), ("5mm", None), ("--5", None), (True, None),
     (math.nan, None), ("9" * 50, None), ("5x", None)],
)  # fmt: skip
def test_durations(value: str | float, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(UsageError):
            keep_alive_seconds(value)
    else:
        assert keep_alive_seconds(value) == pytest.approx(seconds)


def test_a_plan_fits_the_memory(smollm2_path: Path) -> None:
    per_token = 30 * 3 * 64 * 2 * 2  # layers, heads, keys and values in halfs
    rich = ModelPlan.of(smollm2_path, 64 << 30)
    assert (rich.n_ctx, rich.n_parallel) == (8192, 4)
    assert rich.kv_bytes == pytest.approx(4 * 8192 * per_token, rel=0.05)
    poor = ModelPlan.of(smollm2_path, rich.weight_bytes + (128 << 20) + 6000 * 2 * per_token)
    assert poor.n_parallel == 1
    assert 5900 <= poor.n_ctx <= 6100
    least = ModelPlan.of(smollm2_path, rich.weight_bytes + (128 << 20) + 4200 * per_token)
    assert (least.n_ctx, least.n_parallel) == (4096, 1)
    with pytest.raises(OutOfMemory, match=r"--ctx"):
        ModelPlan.of(smollm2_path, rich.weight_bytes + (128 << 20) + 4000 * per_token)
    assert ModelPlan.of(smollm2_path, 64 << 30, n_ctx=512, n_parallel=2).n_parallel == 2
    assert ModelPlan.of(smollm2_path, 64 << 30, n_ctx=512).n_parallel == 4
    assert ModelPlan.of(smollm2_path, 64 << 30, kv_type="q8_0").kv_bytes < 0.6 * rich.kv_bytes
    with pytest.raises(OutOfMemory):
        ModelPlan.of(smollm2_path, 1 << 30, n_ctx=8192, n_parallel=50)


def test_a_real_model_by_turns(smollm2_path: Path) -> None:
    async def answer(model: LoadedModel) -> str:
        stream = model.engine_thread.submit(
            model.engine.tokenize("The capital of France is"), SamplingParams(temperature=0, max_tokens=8)
        )
        return "".join([piece.text async for pieces in stream for piece in pieces])

    async def test() -> None:
        async with ModelHost({"m": smollm2_path}, HostOptions(n_ctx=512, n_parallel=1)) as host:
            texts = []
            for _ in range(2):
                async with host.use("m", 0) as model:
                    texts.append(await answer(model))
                del model
                await until(lambda: not host.loaded())
            assert texts[0] == texts[1]
            assert "Paris" in texts[0]

    asyncio.run(test())
