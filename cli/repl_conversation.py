"""The conversation that is going on, with the model that carries it and the place where it is kept."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmrun.cli.loading import load_engine, model_path
from llmrun.cli.options import GenerateOptions
from llmrun.cli.pick_session import lasting_name, pick_session
from llmrun.cli.say import say
from llmrun.quant_formats.errors import LlmrunError
from llmrun.runner.overflow import overflow_named
from llmrun.runner.session import Session
from llmrun.runner.session_store import SessionStore

if TYPE_CHECKING:
    from llmrun.runner.chat import Chat
    from llmrun.runner.chat_message import Message
    from llmrun.runner.engine import Engine
    from llmrun.runner.sampler import SamplingParams
    from llmrun.runner.session_info import SessionInfo


class Conversation:
    """A session that is open, and what it takes to open another one."""

    def __init__(self, model: str, options: GenerateOptions, continues: bool = False, name: str | None = None) -> None:
        """Load the model and open a session: a new one, or the one of that name, or with `continues` the last one.

        `notify` is told what the user should know, such as what leaves a full context.
        """
        self.model = model
        self.notify: Callable[[str], None] = say
        self.store = SessionStore()
        self._flags = options
        self._session: Session | None = None
        self._engine: Engine | None = None
        try:
            info = pick_session(self.store, name) if continues or name is not None else None
            self._options = options.for_session(info) if info is not None else options
            self.params: SamplingParams = self._options.sampling_params()
            self._engine = self._load(model, self._options)
            if info is None:
                self.begin(name)
            else:
                self._resume(info)
        except BaseException:
            self.close()
            raise

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

    def begin(self, name: str | None = None) -> None:
        """Open a new session with the instructions of now; the one before stays on disk."""
        if self._session is not None and self.has_system:
            system = self.chat.system
        else:
            system = self._flags.system_for(self.engine.chat_template is not None)
        self._open(self.store.create(name, lasting_name(self.model), system, self._flags.session_settings()))

    def _resume(self, info: "SessionInfo") -> None:
        self._open(info)
        system = self._flags.system_for(self.engine.chat_template is not None)
        if "system" in self._flags.given and system != self.chat.system:
            self.chat.set_system(system)
        if info.model != lasting_name(self.model):
            self.store.set_model(info.id, lasting_name(self.model))

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
            self.store.set_model(info.id, lasting_name(model))

    def close(self) -> None:
        """Finish writing and give everything back."""
        try:
            self._close_session()
        finally:
            if self._engine is not None:
                self._engine.close()
            self.store.close()

    def _new(self, info: "SessionInfo") -> "SessionInfo":
        return self.store.create(None, lasting_name(self.model), info.system, info.settings)

    def _open(self, info: "SessionInfo") -> None:
        session = Session.open(self.engine, self.store, info, self.params, self._options.raw, self._tell)
        self._close_session()
        self._session = session
        session.chat.grammar = self._options.grammar()
        session.chat.overflow = overflow_named(self._options.overflow or "shift")
        session.chat.on_drop = self._say_dropped

    def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _tell(self, text: str) -> None:
        self.notify(text)  # who that is may change while a session is open

    def _say_dropped(self, messages: "list[Message]") -> None:
        n = sum(message["role"] == "user" for message in messages)
        first = " ".join(messages[0]["content"].split()) if messages else ""
        start = first[:40] + ("…" if len(first) > 40 else "")
        what = "the oldest turn leaves" if n == 1 else f"the {n} oldest turns leave"
        self.notify(f'the context is full: {what} it, from "{start}" on; they stay in the session on disk')

    @staticmethod
    def _load(model: str, options: GenerateOptions) -> "Engine":
        return load_engine(model, options.context, options.threads, options.kv_type)
