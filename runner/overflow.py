"""What a chat does when the context is full: which of the oldest turns go."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from llmrun.quant_formats.errors import UsageError
from llmrun.runner.chat_message import ChatMessage

Overflow = Literal["error", "shift", "window"]
"""error: nothing is ever dropped; a prompt that does not fit raises, and an answer ends where the context does.
window: before a turn, the fewest of the oldest turns go that make room for it.
shift: half of the oldest turns go at once, so that this is rare, also in the middle of an answer, which goes on.
"""

OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)

ROOM = 4  # the part of the context, one over it, that is kept free for an answer of unknown length


def overflow_named(name: str) -> Overflow:
    """Check a policy given by name; raises UsageError."""
    for overflow in OVERFLOWS:
        if overflow == name:
            return overflow
    raise UsageError(f"unknown overflow {name!r}; choose one of {', '.join(OVERFLOWS)}")


def tokens_for_answer(n_ctx: int, max_tokens: int | None) -> int:
    """How much of the context an answer should find free: what it may take, but at most half of the context."""
    return min(max_tokens or n_ctx // ROOM, n_ctx // 2)


def turn_starts(messages: Sequence[ChatMessage], first: int) -> list[int]:
    """Where the turns from message `first` on begin: there, and at each user message."""
    later = range(first + 1, len(messages))
    return [first, *(i for i in later if messages[i].role == "user")] if first < len(messages) else []


def n_to_drop(overflow: Overflow, starts: Sequence[int], length: Callable[[int], int], room: int) -> int:
    """How many messages must go so that the rest fits into `room` tokens; never any of the last turn.

    starts: where the turns in context begin. length: tokens of the prompt from a message on. If nothing is enough, all
    but the last turn go.
    """
    if overflow == "window":
        # longer and longer prompts, backwards from the last turn
        fitting = bisect_left(range(len(starts) - 1), True, key=lambda i: length(starts[i]) <= room)
        return starts[fitting]
    turn = 0
    while turn < len(starts) - 1 and length(starts[turn]) > room:
        turn += max(1, (len(starts) - 1 - turn) // 2)
    return starts[turn]
