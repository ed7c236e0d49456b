"""One step of an answer."""

from typing import NamedTuple


class TokenLogprobs(NamedTuple):
    """How likely the model found an id, before bias, penalties and temperature."""

    chosen: float  # natural logarithm of the probability of the id that was chosen
    top: tuple[tuple[int, float], ...]  # the likeliest ids with theirs, best first


class Piece(NamedTuple):
    """One id that was chosen, and the text that became certain with it.

    The text is "" while a character is incomplete or the text so far could be the beginning of a stop string, and for
    the id that ends an answer. All pieces together are the answer.
    """

    id: int
    text: str
    logprobs: TokenLogprobs | None = None  # if `SamplingParams.logprobs` asks for them
