"""A reply that is sent piece by piece while its model stays loaded."""

from collections.abc import AsyncGenerator, AsyncIterator

from llmrun.runner.model_host import Lease


class Leased(AsyncIterator[bytes]):
    """The events of a stream; the lease ends with them, or when nobody reads them any more.

    A generator alone would not do: one that was never started runs none of its `finally`, and a client may be gone
    before the first event.
    """

    def __init__(self, lease: Lease, events: AsyncGenerator[bytes, None]) -> None:
        self._lease, self._events = lease, events

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._events)
        except BaseException:  # the end above all
            self._lease.release()
            raise

    async def aclose(self) -> None:
        """Stop; what computes the events is cancelled."""
        try:
            await self._events.aclose()
        finally:
            self._lease.release()

    def __del__(self) -> None:
        self._lease.release()
