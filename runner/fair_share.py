"""How much every client has had, so that the one with least goes first."""

from collections import Counter

DECODED_WEIGHT = 2  # a token of an answer costs more than one of a prompt


class FairShare:
    """Virtual token counters (Sheng et al. 2024, Fairness in Serving Large Language Models).

    Every client has a counter of the tokens that were computed for it. One that comes back after a pause starts where
    the least served of the others is, so that nobody can save up.
    """

    def __init__(self) -> None:
        self._served: Counter[str] = Counter()
        self._n_requests: Counter[str] = Counter()  # not finished, of each client

    def join(self, client: str) -> None:
        """A client has one more request."""
        if self._n_requests[client] == 0:
            least = min((self._served[other] for other in self._n_requests if other != client), default=0)
            self._served[client] = max(self._served[client], least)
        self._n_requests[client] += 1

    def leave(self, client: str) -> None:
        """A request of a client has ended."""
        self._n_requests[client] -= 1
        if self._n_requests[client] == 0:
            del self._n_requests[client]
        if not self._n_requests:  # nobody is waiting: everything is even again
            self._served.clear()

    def charge(self, client: str, n_tokens: int, is_decoding: bool) -> None:
        """Tokens are computed for a client."""
        self._served[client] += n_tokens * (DECODED_WEIGHT if is_decoding else 1)

    def served(self, client: str) -> int:
        """What a client has had; only the order of these numbers means something."""
        return self._served[client]
