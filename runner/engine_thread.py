"""An engine on a thread of its own, for any number of callers at once."""

import asyncio
import logging
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol, TypeVar
from weakref import ref

from llmrun.quant_formats.errors import EngineClosed, LlmrunError, QueueFull
from llmrun.runner.engine import Engine
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.sequence import FinishReason, Sequence
from llmrun.runner.stats import Stats
from llmrun.runner.stream import Stream

if TYPE_CHECKING:
    from llmrun.runner.constraint import Constraint
    from llmrun.runner.piece import Piece

T = TypeVar("T")
_log = logging.getLogger(__name__)
MAX_QUEUE = 512  # requests that wait or run, beyond which new ones are refused

_Delivery = tuple["ref[Stream]", "list[Piece]", FinishReason | None, Exception | None]


class ThreadObserver(Protocol):
    """Whoever counts what an engine does; called on the engine's thread."""

    def finished(self, stats: Stats, reason: FinishReason) -> None:
        """A request has ended."""
        ...


class EngineThread:
    """Steps an engine for as long as there are requests, and sleeps when there are none.

    Requests come from coroutines, of any event loop; what a step gives goes to each loop in one call. Closing the
    thread closes the engine.
    """

    def __init__(self, engine: Engine, max_queue: int = MAX_QUEUE) -> None:
        self.engine = engine
        """For looking at what does not change: tokenizer, template, sizes. All else goes through `call`."""
        self.observer: ThreadObserver | None = None
        self._max_queue = max_queue
        # to do between two steps; a SimpleQueue because a finaliser may put something in
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._streams: dict[Sequence, tuple[ref[Stream], AbstractEventLoop]] = {}
        self._n_open = 0  # requests that have not ended
        self._counting = threading.Lock()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def n_running(self) -> int:
        """How many requests are being computed."""
        return self.engine.n_running

    @property
    def n_waiting(self) -> int:
        """How many requests wait for room in the cache, or for the step to end."""
        return max(0, self._n_open - self.engine.n_running)

    def submit(
        self,
        prompt: SequenceOf[int],
        params: SamplingParams,
        *,
        constraint: "Constraint | None" = None,
        n_ctx: int | None = None,
        client: str = "",
        priority: int = 0,
    ) -> Stream:
        """Queue a request; see `Engine.submit`. Call it in the event loop that reads the answer.

        Raises PromptTooLong or UsageError, QueueFull if too many wait, EngineClosed after `close`.
        """
        sequence = self.engine.new_sequence(
            prompt, params, constraint=constraint, n_ctx=n_ctx, client=client, priority=priority
        )
        if self._is_closing:
            raise EngineClosed("the model is being unloaded; ask again")
        with self._counting:
            if self._n_open >= self._max_queue:
                raise QueueFull(f"{self._n_open} requests are waiting already; ask again later")
            self._n_open += 1
        stream = Stream(self, sequence)
        entry = ref(stream), asyncio.get_running_loop()

        def add() -> None:
            self._streams[sequence] = entry
            self.engine.add(sequence)

        self._tasks.put(add)
        return stream

    async def call(self, function: Callable[[Engine], T]) -> T:
        """Run a function between two steps, on the engine's thread; raises what it raises."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if done.done():  # the caller has left
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            try:
                result, error = function(self.engine), None
            except Exception as e:
                result, error = None, e
            _call_in(loop, settle, result, error)

        if self._is_closing:
            raise EngineClosed("the model is being unloaded; ask again")
        self._tasks.put(run)
        return await done

    def wake(self) -> None:
        """Have the thread look at what has changed; from any thread, even from a finaliser."""
        self._tasks.put(_nothing)

    async def close(self, grace: float = 0.0) -> None:
        """Let running requests go on for `grace` seconds, cancel those that remain, and give everything back."""
        loop = asyncio.get_running_loop()
        end = loop.time() + grace
        while self._n_open and loop.time() < end:
            await asyncio.sleep(0.02)
        self._is_closing = True
        self.wake()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while not self._is_closing:
            self._do_tasks(wait=not self._streams)
            if self._streams and not self._is_closing:
                self._step()
        self._do_tasks(wait=False)
        for sequence in self._streams:
            sequence.cancel_asked = True
        self.engine.drop_ended()
        self._deliver()
        self.engine.close()

    def _do_tasks(self, wait: bool) -> None:
        """Do what there is to do; with `wait`, when there is something. What comes meanwhile is for after a step."""
        for _ in range(max(self._tasks.qsize(), int(wait))):
            self._tasks.get()()

    def _step(self) -> None:
        try:
            self.engine.step()
        except Exception as error:  # out of memory, for example: it ends these requests and not the thread
            if isinstance(error, LlmrunError):
                failure = error
            else:
                _log.exception("a step failed")
                failure = LlmrunError("computing the answer failed; the log of the server says why")
            for sequence in self._streams:
                if sequence.finish_reason is None:
                    sequence.error, sequence.finish_reason = failure, "error"
            self.engine.drop_ended()
        self._deliver()

    def _deliver(self) -> None:
        """Give each event loop what the step gave its streams."""
        deliveries: dict[AbstractEventLoop, list[_Delivery]] = {}
        for sequence, (stream, loop) in list(self._streams.items()):
            if not sequence.pieces and sequence.finish_reason is None:
                continue
            pieces = list(sequence.pieces)
            sequence.pieces.clear()
            deliveries.setdefault(loop, []).append((stream, pieces, sequence.finish_reason, sequence.error))
            if sequence.finish_reason is not None:
                del self._streams[sequence]
                with self._counting:
                    self._n_open -= 1
                if self.observer is not None:
                    self.observer.finished(sequence.stats, sequence.finish_reason)
        for loop, batch in deliveries.items():
            _call_in(loop, _hand_out, batch)


def _hand_out(batch: list[_Delivery]) -> None:
    for stream, pieces, reason, error in batch:
        if (reader := stream()) is not None:
            reader.deliver(pieces, reason, error)


def _call_in(loop: AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:  # the loop is closed: nobody is left to be told
        if not loop.is_closed():
            raise


def _nothing() -> None:
    pass
