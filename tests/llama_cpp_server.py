"""llama.cpp as the reference, reached through the server in the xllamacpp wheel."""

import json
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xllamacpp

N_SLOTS = 4
"""Requests that are computed together: the weights are read once for all of them, which takes most of the time."""


@dataclass(frozen=True)
class Prediction:
    """What llama.cpp thinks comes next: its likeliest ids, and the one that does come next."""

    ids: np.ndarray  # (n,) most likely first
    logprobs: np.ndarray  # (n,) float64
    target_logprob: float


class LlamaCppServer:
    """A model in llama.cpp.

    One thread, because the threads of llama.cpp wait for each other in a busy loop, which takes seconds a token as
    soon as something else wants a processor too.
    """

    def __init__(self, path: Path, n_ctx: int) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.warmup = N_SLOTS * n_ctx, N_SLOTS, False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.swa_full = True  # else a sliding window makes it compute the last few tokens again in every request
        self._server = xllamacpp.Server(params)  # stops when nobody holds it

    def predict(self, tokens: Sequence[int], n: int) -> list[Prediction]:
        """After each of the tokens but the last, its `n` likeliest ids and how likely the token that follows is."""

        def quarter(slot: int) -> list[Prediction]:
            ends = [1 + (len(tokens) - 1) * i // N_SLOTS for i in (slot, slot + 1)]
            return [self._predict(tokens[:end], tokens[end], n, slot) for end in range(*ends)]

        with ThreadPoolExecutor(N_SLOTS) as pool:
            return [prediction for part in pool.map(quarter, range(N_SLOTS)) for prediction in part]

    def greedy(self, prompts: Sequence[Sequence[int]], n: int) -> list[list[int]]:
        """For each prompt, the `n` ids that follow when the likeliest is always taken; fewer if the text ends there."""

        def answer(prompt: Sequence[int]) -> list[int]:
            ids: list[int] = self._complete(prompt, {"n_predict": n, "return_tokens": True})["tokens"]
            return ids

        with ThreadPoolExecutor(N_SLOTS) as pool:
            return list(pool.map(answer, prompts))

    def _predict(self, tokens: Sequence[int], target: int, n: int, slot: int) -> Prediction:
        """Predict what follows `tokens`, in the slot that has read all but the last of them.

        A bias forces `target`, so that its probability is reported even if it is not among the likeliest; the
        probabilities are those from before the bias.
        """
        body = {"n_predict": 1, "n_probs": n, "logit_bias": [[target, 1e6]], "id_slot": slot}
        (token,) = self._complete(tokens, body)["completion_probabilities"]
        assert token["id"] == target, (token["id"], target)
        top = token["top_logprobs"]
        ids, logprobs = np.array([t["id"] for t in top]), np.array([t["logprob"] for t in top])
        return Prediction(ids, logprobs, token["logprob"])

    def _complete(self, tokens: Sequence[int], options: dict[str, Any]) -> dict[str, Any]:
        body = {"prompt": list(tokens), "temperature": 0.0, "cache_prompt": True, **options}
        headers = {"Content-Type": "application/json"}
        address = f"{self._server.listening_address}/completion"
        with urllib.request.urlopen(urllib.request.Request(address, json.dumps(body).encode(), headers)) as response:
            answer: dict[str, Any] = json.load(response)
        return answer
