"""The command line on an engine without weights: `python fake_engine.py run MODEL ...` answers by repeating the prompt.

Environment: FAKE_BASE=1 for a model without a chat template, FAKE_RAISE for an error to raise while answering,
FAKE_SLOW for the seconds between two tokens.
"""

import os
import sys
import time
import types
from collections.abc import Callable, Iterator

from llmrun.quant_formats import errors
from llmrun.runner.sampler import SamplingParams


class Stats:
    n_prompt, n_cached, n_generated = 12, 4, 5
    prefill_tokens_per_second, decode_tokens_per_second = 100.0, 50.0
    decode_ms_per_token, t_first_token = 20.0, 0.25


class Generation:
    def __init__(self, words: list[str], params: SamplingParams, keep: Callable[[str], None]) -> None:
        self.words = words[: params.max_tokens]
        self.finish_reason = "context" if "FILL" in words else "stop"
        self.stats = Stats()
        self.text = ""
        self.keep = keep

    def __iter__(self) -> Iterator[types.SimpleNamespace]:
        if name := os.environ.get("FAKE_RAISE"):
            kind = (
                getattr(errors, name, None)
                or {"MemoryError": MemoryError, "KeyboardInterrupt": KeyboardInterrupt}[name]
            )
            raise kind("something\nwent wrong")
        for i, word in enumerate(self.words):
            if self.finish_reason == "cancelled":
                break
            time.sleep(float(os.environ.get("FAKE_SLOW", "0")))
            text = word if i == 0 else f" {word}"
            self.text += text
            yield types.SimpleNamespace(id=i, text=text)
        self.keep(self.text)

    def cancel(self) -> None:
        self.finish_reason = "cancelled"


class Chat:
    def __init__(self, system: str | None, params: SamplingParams, raw: bool) -> None:
        self.system, self.params, self.raw = system, params, raw
        self.answers: list[str] = []

    def send(self, text: str) -> Generation:
        if text == "TOO LONG":
            raise errors.PromptTooLong("the prompt is too long")
        if self.raw:
            return Generation(f"raw {text}".split(" "), self.params, self.answers.append)
        words = f"[{self.system}|{len(self.answers)}] {text}".split(" ")
        return Generation(words, self.params, self.answers.append)

    def clear(self) -> None:
        self.answers.clear()


class Engine:
    n_ctx = 4096
    chat_template = None if os.environ.get("FAKE_BASE") else object()

    @classmethod
    def load(
        cls,
        model: object,
        n_ctx: int | None = None,
        n_threads: int | None = None,
        progress: object = None,
        kv_type: str | None = None,
    ) -> "Engine":
        return cls()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def chat(self, system: str | None, params: SamplingParams, raw: bool = False) -> Chat:
        return Chat(system, params, raw or self.chat_template is None)


if __name__ == "__main__":
    module = types.ModuleType("llmrun.runner.engine")
    module.Engine = Engine  # type: ignore[attr-defined]
    sys.modules["llmrun.runner.engine"] = module
    from llmrun.cli.app import main

    main()
