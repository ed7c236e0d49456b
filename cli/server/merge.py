"""Several streams read as one."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

T = TypeVar("T")


async def merged(streams: Sequence[AsyncIterator[T]]) -> AsyncIterator[list[tuple[int, T | None]]]:
    """Yield all that came since the last time, each with the number of its stream; None is the end of a stream.

    An error of one is raised, and the others are no longer read. Nothing is cancelled here.
    """
    if len(streams) == 1:
        async for item in streams[0]:
            yield [(0, item)]
        yield [(0, None)]
        return
    arrived: asyncio.Queue[tuple[int, T | None, Exception | None]] = asyncio.Queue()

    async def read(i: int) -> None:
        try:
            async for item in streams[i]:
                arrived.put_nowait((i, item, None))
            arrived.put_nowait((i, None, None))
        except Exception as error:  # raised where the streams are read together
            arrived.put_nowait((i, None, error))

    readers = [asyncio.create_task(read(i)) for i in range(len(streams))]
    try:
        n_open = len(streams)
        while n_open:
            batch = [await arrived.get()]
            while not arrived.empty():
                batch.append(arrived.get_nowait())
            for _, _, error in batch:
                if error is not None:
                    raise error
            n_open -= sum(item is None for _, item, _ in batch)
            yield [(i, item) for i, item, _ in batch]
    finally:
        for reader in readers:
            reader.cancel()
