"""How much an answer took."""

from dataclasses import dataclass


@dataclass(slots=True)
class Stats:
    """Token counts and times of one answer; times are in seconds."""

    n_prompt: int  # ids of the prompt
    n_cached: int = 0  # of these, ids whose keys and values were there already
    n_generated: int = 0  # ids chosen, the one that ends the answer included
    t_first_token: float = 0.0  # from the request to the first id chosen, waiting for other sequences included
    t_prefill: float = 0.0  # from the first step for this prompt to the first id chosen
    t_decode: float = 0.0  # from the first id chosen to the last

    @property
    def prefill_tokens_per_second(self) -> float:
        """Speed of the part of the prompt that was computed; 0 before there is a first id."""
        return (self.n_prompt - self.n_cached) / self.t_prefill if self.t_prefill else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Speed of the answer after its first id, which the prefill yields; 0 while there is no second."""
        return (self.n_generated - 1) / self.t_decode if self.t_decode else 0.0

    @property
    def decode_ms_per_token(self) -> float:
        """Milliseconds for each id after the first; 0 while there is no second."""
        return 1000 * self.t_decode / (self.n_generated - 1) if self.n_generated > 1 else 0.0
