"""What is measured: a prefill, or tokens decoded one at a time, at some depth, in one sequence or in many."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """So many tokens of each of `n_sequences` sequences; without a depth they are a prompt, else decoded from there."""

    name: str
    n_tokens: int
    depth: int | None = None  # tokens in the context before decoding; None is a prefill
    n_sequences: int = 1

    @property
    def n_ctx(self) -> int:
        """Tokens of context that a sequence needs."""
        return (self.depth or 0) + self.n_tokens

    @property
    def n_total(self) -> int:
        """Tokens that are timed, of all sequences."""
        return self.n_tokens * self.n_sequences


def cases(prompt: int, tokens: int, depths: list[int], n_sequences: int) -> list[Case]:
    """The prefill, the depths, and the sequences decoded together."""
    decoding = [Case(f"decode at {depth:,}" if depth else "decode", tokens, depth) for depth in depths]
    return [
        Case(f"prefill {prompt}", prompt),
        *decoding,
        Case(f"{n_sequences} sequences together", tokens, 0, n_sequences),
    ]
