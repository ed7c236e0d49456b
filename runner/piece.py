"""One step of an answer."""

from typing import NamedTuple


class Piece(NamedTuple):
    """One id that was chosen, and the text that became certain with it.

    The text is "" while a character is incomplete or the text so far could be the beginning of a stop string, and for
    the id that ends an answer. All pieces together are the answer.
    """

    id: int
    text: str
