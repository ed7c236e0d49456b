"""The conversation that is going on, with the model that carries it and the place where it is kept."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmrun.cli.loading import load_engine, model_path
from llmrun.cli.options import GenerateOptions
from llmrun.cli.pick_session import pick_session
from llmrun.quant_formats.errors import LlmrunError
from llmrun.runner.session import Session
from llmrun.runner.session_store import SessionStore

if TYPE_CHECKING:
    from llmrun.runner.chat import Chat
    from llmrun.runner.chat_message import Message
    from llmrun.runner.engine import Engine
    from llmrun.runner.sampler import SamplingParams
    from llmrun.runner.session_info import SessionInfo


class Conversation:
    """A session that is open, and what it takes to open another one.

    `notify` is told what the user should know, such as what leaves a full context.
    """

    def __init__(self, model: str, options: GenerateOptions, notify: Callable[[str], None]) -> None:
        """Load the model; no session is open yet."""
        self.model = model
        self.store = SessionStore()
        self._flags = options
        self._options = options
        self._notify = notify
        self._session: Session | None = None
        self._engine: Engine | None = self._load(model, options)
        self.params: SamplingParams = options.sampling_params()

    @property
    def engine(self) -> "Engine":
        """The model that answers."""
        assert self._engine is not None
        return self._engine

    @property
    def chat(self) -> "Chat":
        """The messages, and what can be done with them."""
        assert self._session is not None
        return self._session.chat

    @property
    def info(self) -> "SessionInfo":
        """What is kept of it."""
        assert self._session is not None
        return self._session.info

    @property
    def has_system(self) -> bool:
        """Whether there is a place for instructions."""
        return self.engine.chat_template is not None and not self._options.raw

    def begin(self) -> None:
        """Open a new session; the one before stays on disk."""
        system = self._flags.system_for(self.engine.chat_template is not None)
        if self._session is not None and self.has_system:
            system = self.chat.system
        self._open(self.store.create(None, self.model, system, self._flags.session_settings()))

    def resume(self, name: str | None) -> None:
        """Open the session of that name or id, which may be a new name; without one, the last."""
        info = pick_session(self.store, self.model, self._flags, name)
        self._options = self._flags.for_session(info)
        self.params = self._options.sampling_params()
        self._open(info)
        system = self._options.system_for(self.engine.chat_template is not None)
        if system != self.chat.system:
            self.chat.set_system(system)

    def load(self, name: str) -> None:
        """Open a session that exists; raises UnknownSession or SessionBusy, and the one that is open stays so."""
        info = self.store.find(name)
        if info.id != self.info.id:
            self._open(info)

    def switch(self, model: str) -> None:
        """Go on with another model, which reads what was said; raises as `Engine.load`, and all stays as it was."""
        options = self._flags.for_model(model)
        model_path(model)  # what does not exist is said before anything is given up
        info = self.info
        before = self.model
        self._close_session()
        self.engine.close()
        self._engine = None
        try:
            self._engine = self._load(model, options)
            self.model = model
        except LlmrunError:
            self._engine = self._load(before, self._options)
            raise
        finally:
            if self._engine is not None:
                self._open(self.store.info(info.id) if info.n_messages or info.name else self._new(info))
        if info.n_messages:
            self.store.set_model(info.id, model)

    def close(self) -> None:
        """Finish writing and give everything back."""
        try:
            self._close_session()
        finally:
            if self._engine is not None:
                self._engine.close()
            self.store.close()

    def _new(self, info: "SessionInfo") -> "SessionInfo":
        return self.store.create(None, self.model, info.system, info.settings)

    def _open(self, info: "SessionInfo") -> None:
        session = Session.open(self.engine, self.store, info, self.params, self._options.raw, self._notify)
        self._close_session()
        self._session = session
        session.chat.overflow = self._options.overflow or "shift"  # type: ignore[assignment]  # checked with the flags
        session.chat.on_drop = self._say_dropped

    def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _say_dropped(self, messages: "list[Message]") -> None:
        n = sum(message["role"] == "user" for message in messages)
        first = " ".join(messages[0]["content"].split()) if messages else ""
        start = first[:40] + ("…" if len(first) > 40 else "")
        what = "the oldest turn leaves" if n == 1 else f"the {n} oldest turns leave"
        self._notify(f'the context is full: {what} it, from "{start}" on; they stay in the session on disk')

    @staticmethod
    def _load(model: str, options: GenerateOptions) -> "Engine":
        return load_engine(model, options.context, options.threads, options.kv_type)
