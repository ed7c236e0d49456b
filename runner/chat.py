"""A conversation that keeps its keys and values from turn to turn."""

import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from llmrun.quant_formats.errors import UsageError
from llmrun.runner.answer import Answer
from llmrun.runner.chat_message import ChatMessage, Message, ids_of_context
from llmrun.runner.generation import Generation
from llmrun.runner.overflow import Overflow, n_to_drop, tokens_for_answer, turn_starts
from llmrun.runner.sampler import SamplingParams

if TYPE_CHECKING:
    from llmrun.runner.engine import Engine
    from llmrun.runner.grammar import Grammar


class ChatObserver(Protocol):
    """Whoever records a chat: a session."""

    def changed(self) -> None:
        """Messages or instructions are not what they were; to raise is to refuse what was asked for."""
        ...

    def cleared(self) -> None:
        """All messages are to be forgotten; to raise is to refuse."""
        ...

    def computed(self) -> None:
        """There are more keys and values than before."""
        ...

    def settled(self) -> None:
        """A turn has ended or was taken back, and nothing is being computed."""
        ...


@dataclass(frozen=True, slots=True)
class _State:
    """What was said, and the ids that the model has read and written last."""

    messages: list[ChatMessage] = field(default_factory=list)  # never changed in place
    n_dropped: int = 0  # of the oldest messages, out of the context
    prompt: str | None = ""  # text of the latest prompt; None until somebody needs it, "" if it is not known
    prompt_ids: list[int] = field(default_factory=list)
    answer_ids: list[int] = field(default_factory=list)  # that followed it


class Chat:
    """Messages, and the ids that the model has read and written in their course.

    A turn renders all messages with the model's template and computes only what is new. The ids of the turns before are
    taken over as they are, rather than from tokenising the model's own words again, which need not give the same ids.
    Without a template, or with `raw`, the texts simply follow each other and the model continues them.
    """

    def __init__(
        self,
        engine: "Engine",
        system: str | None,
        params: SamplingParams,
        raw: bool = False,
        overflow: Overflow = "error",
    ) -> None:
        self.params = params
        self.overflow: Overflow = overflow
        self.grammar: Grammar | None = None  # of the answers from the next turn on
        self.on_drop: Callable[[list[Message]], None] | None = None  # called with the messages that are about to go
        self.observer: ChatObserver | None = None
        self.table = engine.new_table()
        self._engine = engine
        self._system = system
        self._template = None if raw else engine.chat_template
        self._state = _State()
        self._answer: Answer | None = None  # whose message is not among the others yet

    @property
    def messages(self) -> list[Message]:
        """What was said, as {"role": ..., "content": ...}; an answer once it has ended, however it did."""
        return [message.plain for message in self.recorded]

    @property
    def recorded(self) -> list[ChatMessage]:
        """The same with all that is known of each message."""
        self._take_answer()
        return list(self._state.messages)

    @property
    def n_dropped(self) -> int:
        """How many of the oldest messages are out of the context by now."""
        return self._state.n_dropped

    @property
    def system(self) -> str | None:
        """The instructions before the chat; a change counts from the next turn on."""
        return self._system

    @system.setter
    def system(self, text: str | None) -> None:
        self.set_system(text)

    @property
    def context_ids(self) -> list[int]:
        """Ids of the latest prompt and of its answer so far."""
        answer = self._state.answer_ids if self._answer is None else self._answer.ids
        return self._state.prompt_ids + answer

    @property
    def n_tokens(self) -> int:
        """Tokens of context in use."""
        return len(self.context_ids)

    @property
    def n_ctx(self) -> int:
        """Tokens that the context holds."""
        return self._engine.n_ctx

    def send(self, text: str, params: SamplingParams | None = None) -> Generation:
        """Say something and return the answer, to be read piece by piece; an answer still being written is cut off.

        Raises PromptTooLong, TemplateError, UsageError (a system message without a template, a grammar that cannot be
        used) or SessionError (it cannot be recorded) before anything has changed, as if nothing had been said.
        """
        self._cut_off()
        messages = self._state.messages
        if messages and messages[-1].role == "user":  # a process that was killed left it without an answer
            messages = [*messages, ChatMessage("assistant", "", None if messages[-1].ids is None else array("i"))]
        return self._ask(messages, ChatMessage("user", text), params)

    def retry(self, params: SamplingParams | None = None) -> Generation:
        """Answer the last message again, in place of the answer before; raises as `send` does.

        The earlier answer stays on record until the new one has ended. A fixed seed gives the same answer again.
        """
        self._cut_off()
        at = _last_user(self._state.messages)
        if at is None:
            raise UsageError("there is no message to answer again yet")
        return self._ask(self._state.messages[:at], self._state.messages[at], params, is_retry=True)

    def edit(self, text: str, params: SamplingParams | None = None) -> Generation:
        """Say something else in place of the last message, and return the answer to it; raises as `send` does."""
        self._cut_off()
        at = _last_user(self._state.messages)
        if at is None:
            raise UsageError("there is no message to edit yet")
        return self._ask(self._state.messages[:at], ChatMessage("user", text), params)

    def undo(self) -> Message | None:
        """Take the last user message and its answer back; returns the message, None if there is none."""
        self._cut_off()
        at = _last_user(self._state.messages)
        if at is None:
            return None
        message = self._state.messages[at]
        self._change(self._state.messages[:at], self._state.n_dropped if self._state.n_dropped < at else 0)
        return message.plain

    def set_system(self, text: str | None) -> None:
        """Give other instructions, from the next turn on; raises UsageError where there is no place for them."""
        if text is not None and self._template is None:
            raise UsageError(_NO_SYSTEM)
        before, self._system = self._system, text
        try:
            self._tell()
        except BaseException:
            self._system = before
            raise

    def reset(self, messages: Sequence[Message]) -> None:
        """Put other messages in place of all; a system message at their beginning becomes the instructions."""
        new = [ChatMessage(message["role"], message["content"]) for message in messages]
        if any(message.role == "system" for message in new[1:]):
            raise UsageError("only the first message of a chat can be a system message")
        self.clear()
        if new and new[0].role == "system":
            self.set_system(new[0].content)
            new = new[1:]
        self._change(new, 0)

    def resume(self, messages: Sequence[ChatMessage], n_dropped: int) -> None:
        """Go on from messages that are on record already."""
        self._state = _state_of(list(messages), n_dropped)

    def clear(self) -> None:
        """Forget everything but the system message."""
        self._cut_off()
        if self.observer is not None:
            self.observer.cleared()
        self._state = _State()
        self._engine.release(self.table)

    def close(self) -> None:
        """End an answer in progress and give the keys and values back."""
        self._cut_off()
        self._engine.release(self.table)

    # What the answer in progress reports.

    def make_room(self, answer: Answer) -> None:
        """Before the id that would fill the context: under "shift", drop old turns and go on with the same answer."""
        state = self._state
        if self.overflow != "shift" or answer is not self._answer or not answer.is_about_to_fill:
            return
        starts = turn_starts(state.messages, state.n_dropped)
        n_written = len(answer.ids)
        room = self.n_ctx - self.n_ctx // 4 - n_written
        n_dropped = n_to_drop("shift", starts, lambda first: len(self._fresh_ids(state.messages[first:])[1]), room)
        prompt, ids = self._fresh_ids(state.messages[n_dropped:])
        if n_dropped == state.n_dropped or len(ids) + n_written + 2 > self.n_ctx:
            return  # the answer ends here
        self._drop(state.messages[state.n_dropped : n_dropped])
        answer.rebase(ids)
        before, _ = ids_of_context(state.messages[:-1])
        asked = _with_prompt(state.messages[-1], prompt, ids, before)
        self._state = _State([*state.messages[:-1], asked], n_dropped, prompt, ids)

    def after_step(self) -> None:
        """There is another piece of the answer."""
        if self.observer is not None:
            self.observer.computed()

    def end_answer(self, answer: Answer) -> None:
        """The answer has ended: make a message of it and record it."""
        if answer is self._answer:
            self._take_answer()
            self._tell()
            if self.observer is not None:
                self.observer.settled()

    # How a turn comes about.

    def _ask(
        self, before: list[ChatMessage], asked: ChatMessage, params: SamplingParams | None, is_retry: bool = False
    ) -> Generation:
        params = params or self.params
        constraint = self._engine.grammar_compiler.constraint(self.grammar) if self.grammar is not None else None
        messages, old = [*before, asked], self._state
        base = old if before is old.messages else _state_of(before, old.n_dropped)
        prompt, ids, n_dropped = self._prompt_for(messages, base, params)
        if n_dropped > old.n_dropped and len(ids) < self.n_ctx:
            self._drop(messages[old.n_dropped : n_dropped])
        generation = self._engine.submit(ids, params, self.table, constraint=constraint)
        asked = _with_prompt(asked, prompt, ids, base.prompt_ids + base.answer_ids)
        self._state, self._answer = _State([*before, asked], n_dropped, prompt, ids), Answer(self, generation)
        try:
            if not is_retry:
                self._tell()
        except BaseException:
            generation.cancel()
            self._state, self._answer = old, None
            raise
        return self._answer

    def _prompt_for(
        self, messages: list[ChatMessage], base: _State, params: SamplingParams
    ) -> tuple[str, list[int], int]:
        """Text and ids of the prompt that ends with `messages`, and how many of these it leaves out."""
        n_dropped = base.n_dropped
        prompt = self._render(messages[n_dropped:])
        ids = self._ids_of(prompt, base)
        room = self.n_ctx - tokens_for_answer(self.n_ctx, params.max_tokens)
        if self.overflow == "error" or len(ids) <= room:
            return prompt, ids, n_dropped
        starts = turn_starts(messages, n_dropped)
        n_dropped = n_to_drop(self.overflow, starts, lambda i: len(self._fresh_ids(messages[i:])[1]), room)
        if n_dropped == base.n_dropped:  # only this turn is left
            return prompt, ids, n_dropped
        return *self._fresh_ids(messages[n_dropped:]), n_dropped

    def _drop(self, messages: Sequence[ChatMessage]) -> None:
        if self.on_drop is not None:
            self.on_drop([message.plain for message in messages])

    def _change(self, messages: list[ChatMessage], n_dropped: int) -> None:
        """Go on from other messages, unless that cannot be recorded."""
        old, self._state = self._state, _state_of(messages, n_dropped)
        try:
            self._tell()
        except BaseException:
            self._state = old
            raise
        if self.observer is not None:
            self.observer.settled()

    def _tell(self) -> None:
        if self.observer is not None:
            self.observer.changed()

    def _cut_off(self) -> None:
        """End an answer that is still being written; what there is of it becomes a message."""
        if self._answer is not None:
            self._answer.cancel()
            self.end_answer(self._answer)

    def _take_answer(self) -> None:
        """Make a message of the answer, if it has ended."""
        answer = self._answer
        if answer is not None and answer.finish_reason is not None:
            ids, state = answer.ids, self._state
            said = ChatMessage("assistant", answer.text, array("i", ids))
            self._state = replace(state, messages=[*state.messages, said], answer_ids=ids)
            self._answer = None

    # From messages to ids.

    def _render(self, messages: Sequence[ChatMessage]) -> str:
        if self._template is None:
            if self._system is not None:
                raise UsageError(_NO_SYSTEM)
            return "".join(message.content for message in messages)
        plain = [message.plain for message in messages]
        if self._system is not None:
            plain = [{"role": "system", "content": self._system}, *plain]
        return self._template.render(plain)

    def _fresh_ids(self, messages: Sequence[ChatMessage]) -> tuple[str, list[int]]:
        """Text and ids of a prompt, nothing taken over."""
        prompt = self._render(messages)
        return prompt, self._engine.tokenize(prompt)

    def _ids_of(self, prompt: str, base: _State) -> list[int]:
        """Ids of a prompt, the same as in `base` for as far as it says the same.

        If it goes on from the last prompt and an answer to it with a special token, such as the end of a turn, the ids
        of both are kept and only the rest is tokenised: text never merges with a special token, so this is exact. In
        any other case (a template that rewrites answers, a text without special tokens) the whole prompt is tokenised,
        and the cache serves as far as the ids agree.
        """
        last = self._last_prompt(base)
        if last and prompt.startswith(last):
            rest = prompt[len(last) :].encode()
            n_bytes, kept = 0, list(base.prompt_ids)
            for token in base.answer_ids:
                token_bytes = self._engine.tokenizer.token_bytes(token)
                if not rest.startswith(token_bytes, n_bytes):
                    break
                n_bytes += len(token_bytes)
                kept.append(token)
            new = self._tokenize_rest(rest[n_bytes:])
            if kept and new:
                return kept + new
        return self._engine.tokenize(prompt)

    def _last_prompt(self, state: _State) -> str:
        """Text of the latest prompt, if that is still how it would be written, else ""."""
        if state.prompt is not None:
            return state.prompt
        at = _last_user(state.messages)
        assert at is not None, "ids of a prompt without a message"
        prompt = self._render(state.messages[state.n_dropped : at + 1])
        # not the same after other instructions, on another day (some templates say which), or before some was dropped
        return prompt if _key(prompt) == state.messages[at].prompt_key else ""

    def _tokenize_rest(self, rest: bytes) -> list[int]:
        """Ids of text that begins with a special token; none if it does not."""
        try:
            ids = self._engine.tokenizer.encode(rest.decode(), add_special=False)
        except UnicodeDecodeError:  # it begins within a character
            return []
        return ids if ids and self._engine.tokenizer.is_special(ids[0]) else []


_NO_SYSTEM = "without a chat template there is no place for a system message; put it into the text"


def _state_of(messages: list[ChatMessage], n_dropped: int) -> _State:
    ids, n_prompt = ids_of_context(messages)
    return _State(messages, n_dropped, None if n_prompt else "", ids[:n_prompt], ids[n_prompt:])


def _last_user(messages: Sequence[ChatMessage]) -> int | None:
    """Where the last message of the user is."""
    return next((i for i in reversed(range(len(messages))) if messages[i].role == "user"), None)


def _with_prompt(message: ChatMessage, prompt: str, ids: list[int], known: list[int]) -> ChatMessage:
    """The message with the ids of the prompt that it ended, of which those in `known` were there before."""
    n_kept = 0
    for old, new in zip(known, ids, strict=False):
        if old != new:
            break
        n_kept += 1
    return replace(message, ids=array("i", ids[n_kept:]), n_kept=n_kept, prompt_key=_key(prompt))


def _key(prompt: str) -> bytes:
    return hashlib.blake2b(prompt.encode(), digest_size=8).digest()
