"""llama.cpp in a process of its own: reads a command a line from stdin, answers with a line of JSON on stdout.

Runs in an environment that has llama-cpp-python and knows nothing of llmrun; `peer.py` starts it and says what the
commands are.
"""

import ctypes
import json
import sys
import time
from typing import Any

import llama_cpp as lib
import numpy as np

BATCH_TOKENS = 512
CONTEXT_STEP = 256  # tokens that llama.cpp rounds the context of a sequence to


@lib.llama_log_callback
def _no_log(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    pass


class LlamaCpp:
    """A model and a context, driven through the C interface."""

    def __init__(self, path: str, n_threads: int, n_ctx: int) -> None:
        lib.llama_log_set(_no_log, ctypes.c_void_p(0))
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        if not self.model:
            raise RuntimeError("llama.cpp cannot load the model")
        self.n_threads = n_threads
        self.n_ctx = n_ctx
        self.context = self._new_context(n_ctx, 1)
        self.vocabulary = lib.llama_model_get_vocab(self.model)
        self.n_vocab = lib.llama_vocab_n_tokens(self.vocabulary)
        self.batch = lib.llama_batch_init(BATCH_TOKENS, 0, 1)
        self.position = 0
        self.many: dict[tuple[int, int], Any] = {}  # contexts of many sequences: how many, and of how many tokens

    def about(self) -> dict[str, Any]:
        """Version and what it was built for."""
        return {"version": lib.__version__, "system": lib.llama_print_system_info().decode()}

    def clear(self) -> None:
        """Forget the context."""
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        self.position = 0

    def prefill(self, tokens: list[int]) -> dict[str, Any]:
        """Start anew with these tokens; the logits of the last are computed."""
        self.clear()
        start = time.perf_counter()
        for first in range(0, len(tokens), BATCH_TOKENS):
            chunk = tokens[first : first + BATCH_TOKENS]
            self._forward(chunk, all_logits=False)
        return {"seconds": time.perf_counter() - start}

    def decode(self, depth: int, tokens: list[int]) -> dict[str, Any]:
        """Cut the context to `depth` tokens, then run tokens one at a time."""
        if not lib.llama_memory_seq_rm(lib.llama_get_memory(self.context), 0, depth, -1):
            raise RuntimeError(f"llama.cpp cannot cut its context to {depth} tokens")
        self.position = depth
        start = time.perf_counter()
        for token in tokens:
            self._forward([token], all_logits=False)
        return {"seconds": time.perf_counter() - start}

    def decode_together(self, n_sequences: int, tokens: list[int]) -> dict[str, Any]:
        """Run the same tokens one at a time in each of many sequences, which begin empty, in a context apart.

        A step is one batch with a token of each sequence, and computes the logits of all.
        """
        context, batch = self._context_of_many(n_sequences, len(tokens)), self.batch
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        batch.n_tokens = n_sequences
        start = time.perf_counter()
        for position, token in enumerate(tokens):
            for i in range(n_sequences):
                batch.token[i], batch.pos[i] = token, position
                batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, i, True
            if lib.llama_decode(context, batch):
                raise RuntimeError("llama_decode failed")
            lib.llama_get_logits(context)  # waits for the result
        return {"seconds": time.perf_counter() - start}

    def logits(self, tokens: list[int], file: str, single: bool) -> dict[str, Any]:
        """Go on with these tokens and write the logits after each, (n_tokens, n_vocab) float32, to a file.

        `single` runs them one at a time, with the kernels of decoding.
        """
        rows = [self._forward([token], all_logits=True).copy() for token in tokens] if single else []
        np.save(file, np.concatenate(rows) if single else self._forward(tokens, all_logits=True))
        return {}

    def save_state(self, tokens: list[int], file: str) -> dict[str, Any]:
        """Write what is in the context, that of these tokens, to a file."""
        start = time.perf_counter()
        ids = (ctypes.c_int * len(tokens))(*tokens)
        if not lib.llama_state_seq_save_file(self.context, file.encode(), 0, ids, len(tokens)):
            raise RuntimeError("llama.cpp cannot save its state")
        return {"seconds": time.perf_counter() - start}

    def load_state(self, n_tokens: int, file: str) -> dict[str, Any]:
        """Read a file into a new context, and into one that was in use: seconds with and without making it."""
        ids, n_read = (ctypes.c_int * n_tokens)(), ctypes.c_size_t()
        seconds = []
        start = time.perf_counter()
        context = self._new_context(self.n_ctx, 1)
        for _ in range(2):
            lib.llama_memory_clear(lib.llama_get_memory(context), False)
            if not lib.llama_state_seq_load_file(context, file.encode(), 0, ids, n_tokens, ctypes.byref(n_read)):
                raise RuntimeError("llama.cpp cannot load its state")
            seconds.append(time.perf_counter() - start)
            start = time.perf_counter()
        lib.llama_free(context)
        if n_read.value != n_tokens:
            raise RuntimeError(f"llama.cpp read {n_read.value} of {n_tokens} tokens")
        return {"seconds": seconds}

    def greedy(self, tokens: list[int], n: int) -> dict[str, Any]:
        """The ids that follow when the likeliest is always taken, up to the end of the text."""
        self.clear()
        logits, ids = self._forward(tokens, all_logits=False), []
        for _ in range(n):
            token = int(logits[-1].argmax())
            ids.append(token)
            if lib.llama_vocab_is_eog(self.vocabulary, token):
                break
            logits = self._forward([token], all_logits=False)
        return {"ids": ids}

    def _new_context(self, n_ctx: int, n_sequences: int) -> Any:
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, BATCH_TOKENS, BATCH_TOKENS
        params.n_seq_max = n_sequences
        params.n_threads = params.n_threads_batch = self.n_threads
        context = lib.llama_init_from_model(self.model, params)
        if not context:
            raise RuntimeError(f"llama.cpp has no room for a context of {n_ctx} tokens")
        return context

    def _context_of_many(self, n_sequences: int, n_tokens: int) -> Any:
        key = n_sequences, -(-n_tokens // CONTEXT_STEP) * CONTEXT_STEP
        if key not in self.many:
            self.many[key] = self._new_context(key[0] * key[1], n_sequences)
        return self.many[key]

    def _forward(self, tokens: list[int], all_logits: bool) -> np.ndarray:
        """Logits (n, n_vocab) of every token, or of the last; valid until the next call."""
        batch, n = self.batch, len(tokens)
        batch.n_tokens = n
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, self.position + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = all_logits or i == n - 1
        if lib.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")
        self.position += n
        shape = (n if all_logits else 1, self.n_vocab)
        return np.ctypeslib.as_array(lib.llama_get_logits(self.context), shape)


def main() -> None:
    path, n_threads, n_ctx = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    peer = LlamaCpp(path, n_threads, n_ctx)
    print(json.dumps(peer.about()), flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(getattr(peer, name)(**arguments) or {}), flush=True)


if __name__ == "__main__":
    main()
