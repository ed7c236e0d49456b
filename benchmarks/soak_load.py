"""The clients of the load test: each does one thing after the other, most of them right, some as badly as it gets."""

import asyncio
import contextlib
import json
import random
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

from soak_answer import Answer, answer_of
from soak_client import Address, BrokenReply, Connection, Reply, ask, http
from soak_requests import Ask, Refused, fresh

MOST_SHOWN = 20  # failures, of which each is a line
MOST_KEPT = 150  # answers to requests that were made once, to be asked for again
Said = tuple[int, Answer]
"""Status and answer."""


def said(reply: Reply) -> Said:
    """What is compared of a reply."""
    return reply.status, answer_of(reply)


async def references(address: Address, asks: Sequence[Ask]) -> dict[str, Said]:
    """The answers to requests that are alone with the server, one after the other, by their names."""
    return {one.name: said(await ask(address, "POST", one.path, one.body)) for one in asks}


class Load:
    """Clients that work until the time is over."""

    def __init__(
        self, address: Address, asks: Sequence[Ask], known: Mapping[str, Said], wrong: Sequence[Refused], seed: int = 0
    ) -> None:
        self.done: Counter[str] = Counter()
        """How often each thing was done."""
        self.failures: Counter[str] = Counter()
        self.fresh: list[tuple[Ask, Said]] = []
        """Requests that were made once, and what was answered."""
        self._address = address
        self._asks = asks
        self._known = known
        self._wrong = wrong
        self._seed = seed
        self._n_fresh = 0

    async def run(self, n_clients: int, seconds: float) -> None:
        """Have so many clients work for so long, and wait for the last answers."""
        end = time.monotonic() + seconds
        await asyncio.gather(*(self._client(random.Random(f"{self._seed} {i}"), end) for i in range(n_clients)))

    async def _client(self, rng: random.Random, end: float) -> None:
        deeds: dict[Callable[[random.Random], Awaitable[None]], int] = {
            self.ask_properly: 40, self.ask_something_new: 14, self.ask_twice_on_a_connection: 4, self.read_slowly: 6,
            self.leave_in_the_middle: 12, self.leave_before_the_answer: 8, self.leave_half_a_request: 4,
            self.be_refused: 12,
        }  # fmt: skip
        while time.monotonic() < end:
            (deed,) = rng.choices(list(deeds), list(deeds.values()))
            name = deed.__name__.replace("_", " ")
            try:
                await deed(rng)
            except Exception as error:
                self._fail(f"{name}: {type(error).__name__} {error}")
                if not isinstance(error, BrokenReply | OSError | TimeoutError | ValueError):
                    traceback.print_exc()  # a fault of this program
            self.done[name] += 1

    async def ask_properly(self, rng: random.Random) -> None:
        """Ask, and compare."""
        one = rng.choice(self._asks)
        self._compare(one, await ask(self._address, "POST", one.path, one.body))

    async def ask_something_new(self, rng: random.Random) -> None:
        """Ask what nobody asked before, so that the cache is never large enough."""
        self._n_fresh += 1
        one = fresh(_model_of(self._asks), 1000 * rng.randrange(1, 10**6) + self._n_fresh % 1000)
        answer = said(await ask(self._address, "POST", one.path, one.body))
        if answer[0] != 200:
            self._fail(f"{one.name}: status {answer[0]}")
        elif len(self.fresh) < MOST_KEPT:
            self.fresh.append((one, answer))

    async def ask_twice_on_a_connection(self, rng: random.Random) -> None:
        """Send a request before the one ahead of it is answered."""
        first, second = rng.choice(self._asks), rng.choice(self._asks)
        async with Connection(self._address) as connection:
            data = http("POST", first.path, first.body, is_last=False) + http("POST", second.path, second.body)
            await connection.send(data)
            for one in (first, second):
                self._compare(one, await connection.reply())

    async def read_slowly(self, rng: random.Random) -> None:
        """Take a little of the answer at a time."""
        one = rng.choice(self._asks)
        pause = rng.uniform(0.01, 0.1)
        self._compare(one, await ask(self._address, "POST", one.path, one.body, pause))

    async def leave_in_the_middle(self, rng: random.Random) -> None:
        """Read some of an answer, then close or reset the connection."""
        one = rng.choice(self._asks)
        async with Connection(self._address) as connection:
            await connection.send(http("POST", one.path, one.body))
            for _ in range(rng.randrange(1, 6)):
                if not await asyncio.wait_for(connection.reader.read(300), 240):
                    break
            if rng.random() < 0.5:
                connection.reset()

    async def leave_before_the_answer(self, rng: random.Random) -> None:
        """Do not wait for it."""
        one = rng.choice(self._asks)
        async with Connection(self._address) as connection:
            await connection.send(http("POST", one.path, one.body))
            await asyncio.sleep(rng.choice((0, 0.001, 0.05, rng.random())))
            if rng.random() < 0.5:
                connection.reset()

    async def leave_half_a_request(self, rng: random.Random) -> None:
        """Leave in the middle of the head or of the body."""
        one = rng.choice(self._asks)
        data = http("POST", one.path, one.body)
        async with Connection(self._address) as connection:
            await connection.send(data[: rng.randrange(1, len(data))])
            await asyncio.sleep(rng.random())
            if rng.random() < 0.5:
                connection.reset()

    async def be_refused(self, rng: random.Random) -> None:
        """Send what is wrong, and see that it is called that."""
        wrong = rng.choice(self._wrong)
        async with Connection(self._address) as connection:
            sending = asyncio.create_task(connection.send(wrong.data))
            try:
                text = await connection.everything()
            finally:
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sending
        status = int(text[9:12]) if text.startswith(b"HTTP/1.1 ") else 0
        # what is still coming in when a connection is closed may reset it before the answer is read
        if status not in wrong.statuses and not (status == 0 and len(wrong.data) > 65536):
            self._fail(f"{wrong.name}: status {status}, not {' or '.join(map(str, wrong.statuses))}")

    async def check_fresh(self) -> int:
        """Ask again, alone, what was asked once, and compare; returns how many there were."""
        for one, before in self.fresh:
            now = said(await ask(self._address, "POST", one.path, one.body))
            self._compare_said(one, before, now)
        return len(self.fresh)

    def _compare(self, one: Ask, reply: Reply) -> None:
        self.done["answers compared"] += 1
        try:
            self._compare_said(one, said(reply), self._known[one.name])
        except ValueError as error:
            self._fail(f"{one.name}: status {reply.status}, {error}: {reply.body[-200:]!r}")

    def _compare_said(self, one: Ask, under_load: Said, alone: Said) -> None:
        if under_load == alone:
            return
        if under_load[0] != alone[0]:
            self._fail(f"{one.name}: status {under_load[0]}, alone {alone[0]}; {json.dumps(under_load[1])[:200]}")
            return
        for place in {**under_load[1], **alone[1]}:
            mine, other = under_load[1].get(place), alone[1].get(place)
            if mine != other:
                self._fail(f"{one.name}: {place} is {str(mine)[:200]!r}, alone {str(other)[:200]!r}")

    def _fail(self, what: str) -> None:
        self.failures[what] += 1
        if sum(self.failures.values()) <= MOST_SHOWN:
            print(f"FAILURE {what}", flush=True)


def _model_of(asks: Sequence[Ask]) -> str:
    model: str = asks[0].body["model"]
    return model
