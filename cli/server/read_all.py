"""Letting an answer be written for a reply in one piece."""

from collections.abc import AsyncIterator

from fastapi import Request

from llmrun.cli.server.connected import while_connected


async def read_all(request: Request, events: AsyncIterator[bytes]) -> None:
    """Read the events of an answer to their end, which whoever makes them keeps in another shape.

    Raises ClientDisconnect when the client goes away first; the answer is cancelled then.
    """

    async def read() -> None:
        async for _ in events:
            pass

    await while_connected(request, read())
