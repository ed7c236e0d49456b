"""One message of a conversation, with the ids that it brought into the context."""

import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

Message = dict[str, str]
"""What chat templates and programs know of a message: {"role": ..., "content": ...}."""


@dataclass(eq=False, slots=True)
class ChatMessage:
    """What was said, and how the ids of the context follow from those before it.

    The ids form a chain, so that those of any turn can be had again without storing each of them twice:

        prompt of a turn = (context after the turn before)[:n_kept] + ids of its user message
        context after it = prompt + ids of its answer

    `ids` is None where they are not known: a message that was loaded, or said to another model.
    """

    role: str
    content: str
    ids: "array[int] | None" = None
    n_kept: int = 0
    prompt_key: bytes = b""  # of a user message: names the text of the prompt that ended with it
    created: float = field(default_factory=time.time)  # seconds since 1970

    @property
    def plain(self) -> Message:
        """Role and content."""
        return {"role": self.role, "content": self.content}


def ids_of_context(messages: Sequence[ChatMessage]) -> tuple[list[int], int]:
    """Ids of the last prompt and the answer that followed it, and how many are the prompt's; none if not known."""
    context: list[int] = []
    n_prompt = 0
    for message in messages:
        if message.ids is None:
            context, n_prompt = [], 0
        elif message.role == "user":
            del context[message.n_kept :]
            context.extend(message.ids)
            n_prompt = len(context)
        elif n_prompt:  # an answer to a prompt that is known
            context.extend(message.ids)
    return context, n_prompt
