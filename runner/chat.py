"""A conversation that keeps its keys and values from turn to turn."""

from typing import TYPE_CHECKING

from llmrun.quant_formats.errors import UsageError
from llmrun.runner.generation import Generation
from llmrun.runner.sampler import SamplingParams

if TYPE_CHECKING:
    from llmrun.runner.engine import Engine

Message = dict[str, str]


class Chat:
    """Messages, and the ids that the model has read and written in their course.

    A turn renders all messages with the model's template and computes only what is new. The ids of the turns before are
    taken over as they are, rather than from tokenising the model's own words again, which need not give the same ids.
    Without a template, or with `raw`, the texts simply follow each other and the model continues them.
    """

    def __init__(self, engine: "Engine", system: str | None, params: SamplingParams, raw: bool = False) -> None:
        self.params = params
        self.system = system  # a change counts from the next turn on
        self._engine = engine
        self._template = None if raw else engine.chat_template
        self._table = engine.new_table()
        self._messages: list[Message] = []
        self._generation: Generation | None = None  # the answer whose message is not in _messages yet
        self._prompt = ""  # text of the latest prompt
        self._prompt_ids: list[int] = []
        self._answer_ids: list[int] = []  # that followed it

    @property
    def messages(self) -> list[Message]:
        """What was said, as {"role": ..., "content": ...}; an answer once it has ended, however it did."""
        self._take_answer()
        return list(self._messages)

    def send(self, text: str, params: SamplingParams | None = None) -> Generation:
        """Say something and return the answer, to be read piece by piece; an answer still being written is cut off.

        Raises PromptTooLong, TemplateError or UsageError (a system message without a template) before anything has
        changed: the chat goes on as if nothing had been said.
        """
        if self._generation is not None:
            self._generation.cancel()
            self._take_answer()
        messages = [*self._messages, {"role": "user", "content": text}]
        prompt = self._render(messages)
        ids = self._ids_of(prompt)
        self._generation = self._engine.submit(ids, params or self.params, self._table)
        self._messages, self._prompt, self._prompt_ids, self._answer_ids = messages, prompt, ids, []
        return self._generation

    def clear(self) -> None:
        """Forget everything but the system message."""
        if self._generation is not None:
            self._generation.cancel()
        self._generation = None
        self._messages = []
        self._prompt, self._prompt_ids, self._answer_ids = "", [], []
        self._engine.release(self._table)

    def _take_answer(self) -> None:
        """Make a message of the answer, if it has ended."""
        generation = self._generation
        if generation is not None and generation.finish_reason is not None:
            self._messages.append({"role": "assistant", "content": generation.text})
            self._answer_ids = generation.ids
            self._generation = None

    def _render(self, messages: list[Message]) -> str:
        if self._template is None:
            if self.system is not None:
                raise UsageError("without a chat template there is no place for a system message; put it into the text")
            return "".join(message["content"] for message in messages)
        if self.system is not None:
            messages = [{"role": "system", "content": self.system}, *messages]
        return self._template.render(messages)

    def _ids_of(self, prompt: str) -> list[int]:
        """Ids of a prompt, the same as last time for as far as it says the same.

        If it goes on from the last prompt and an answer to it with a special token, such as the end of a turn, the ids
        of both are kept and only the rest is tokenised: text never merges with a special token, so this is exact. In
        any other case (a template that rewrites answers, a text without special tokens) the whole prompt is tokenised,
        and the cache serves as far as the ids agree.
        """
        if prompt.startswith(self._prompt):
            rest = prompt[len(self._prompt) :].encode()
            n_bytes, kept = 0, list(self._prompt_ids)
            for token in self._answer_ids:
                token_bytes = self._engine.tokenizer.token_bytes(token)
                if not rest.startswith(token_bytes, n_bytes):
                    break
                n_bytes += len(token_bytes)
                kept.append(token)
            new = self._tokenize_rest(rest[n_bytes:])
            if kept and new:
                return kept + new
        return self._engine.tokenize(prompt)

    def _tokenize_rest(self, rest: bytes) -> list[int]:
        """Ids of text that begins with a special token; none if it does not."""
        try:
            ids = self._engine.tokenizer.encode(rest.decode(), add_special=False)
        except UnicodeDecodeError:  # it begins within a character
            return []
        return ids if ids and self._engine.tokenizer.is_special(ids[0]) else []
