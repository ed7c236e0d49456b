"""A chat that is recorded as it goes, and goes on where it was left."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from llmrun.runner.chat import Chat
from llmrun.runner.chat_message import ChatMessage
from llmrun.runner.file_lock import FileLock
from llmrun.runner.generation import Generation
from llmrun.runner.kv_index import KVIndex
from llmrun.runner.sampler import SamplingParams
from llmrun.runner.session_info import SessionInfo
from llmrun.runner.session_kv import Notify, SessionKV
from llmrun.runner.session_store import Place, SessionStore

if TYPE_CHECKING:
    from llmrun.runner.engine import Engine


def _no_notice(_text: str) -> None:
    pass


class Session:
    """A Chat, with every message on disk as soon as it is said, and its keys and values a little later.

        with Session.open(engine, store, store.last() or store.create(None, "smollm2"), SamplingParams()) as session:
            for piece in session.send("And then?"):
                print(piece.text, end="", flush=True)

    Whatever is done with `chat` is recorded. A process that is killed loses the answer that is being written, and
    nothing else.
    """

    def __init__(
        self, engine: "Engine", store: SessionStore, info: SessionInfo, chat: Chat, lock: FileLock, notify: Notify
    ) -> None:
        """Take over a lock; see `open`."""
        self.chat = chat
        self._engine = engine
        self._store = store
        self._id = info.id
        self._lock: FileLock | None = lock
        self._notify = notify
        self._saved: list[tuple[int, ChatMessage, Place]] = []  # the messages in use that are on the disk
        self._saved_system = info.system
        self._kv = SessionKV(engine, store.folder, info.id, store.max_kv_bytes, notify)

    @classmethod
    def open(
        cls,
        engine: "Engine",
        store: SessionStore,
        info: SessionInfo,
        params: SamplingParams,
        raw: bool = False,
        notify: Notify = _no_notice,
    ) -> Self:
        """Lock a session and go on with it: its messages and instructions, without computing anything again.

        Keys and values that another model or another type of them has left, that are damaged or missing, are computed
        again with the next message; `notify` says so. It may be called later too, when they cannot be written.

        Raises SessionBusy if the session is open elsewhere, UnknownSession if it was removed, SessionError if it cannot
        be read.
        """
        lock = store.lock(info.id)
        try:
            info = store.info(info.id)  # it may have gone on since it was looked up
            session = cls(engine, store, info, Chat(engine, info.system, params, raw), lock, notify)
        except BaseException:
            lock.release()
            raise
        try:
            session._resume(info)
            session.chat.observer = session
        except BaseException:
            session._let_go()
            raise
        return session

    @property
    def info(self) -> SessionInfo:
        """What is on the disk about the session now."""
        return self._store.info(self._id)

    def send(self, text: str, params: SamplingParams | None = None) -> Generation:
        """Say something; see `Chat.send`."""
        return self.chat.send(text, params)

    def close(self) -> None:
        """Cut off an answer in progress, finish writing, and let others have the session.

        A session without a name in which nothing was said is removed.
        """
        if self._lock is None:
            return
        try:
            self.chat.close()
        finally:
            self._let_go()
        self._store.remove_if_empty(self._id)

    def flush(self) -> None:
        """Wait until the keys and values are written; messages always are."""
        self._kv.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What the chat reports; see ChatObserver.

    def changed(self) -> None:
        """Bring what is on the disk to what the chat is now, in one transaction."""
        chat = self.chat
        now = [(message, _place(i, chat.n_dropped)) for i, message in enumerate(chat.recorded)]
        n_same = 0
        for (_, old, _), (message, _) in zip(self._saved, now, strict=False):
            if old is not message:
                break
            n_same += 1
        kept = [(n, message, place) for (n, message, _), (_, place) in zip(self._saved[:n_same], now, strict=False)]
        moved = [(n, place) for (n, _, place), (_, _, old) in zip(kept, self._saved, strict=False) if place != old]
        new = now[n_same:]
        if not moved and not new and n_same == len(self._saved) and chat.system == self._saved_system:
            return
        numbers = self._store.save(
            self._id, kept[-1][0] if kept else 0, moved, new, chat.system, chat.n_tokens, self._engine.fingerprint
        )
        self._saved = kept + [(n, message, place) for n, (message, place) in zip(numbers, new, strict=True)]
        self._saved_system = chat.system
        self._kv.changed()

    def cleared(self) -> None:
        """Keep the messages as what was said before the user began anew."""
        if self._saved:
            moved: list[tuple[int, Place]] = [(number, "cleared") for number, _, _ in self._saved]
            self._store.save(self._id, self._saved[-1][0], moved, [], self.chat.system, 0, self._engine.fingerprint)
        self._saved = []
        self._kv.settled(self.chat.table, [])

    def computed(self) -> None:
        """Have the blocks written that have become full."""
        self._kv.computed(self.chat.table)

    def settled(self) -> None:
        """Have the rest of the keys and values written."""
        self._kv.settled(self.chat.table, self.chat.context_ids)

    def _resume(self, info: SessionInfo) -> None:
        is_same_model = info.fingerprint in ("", self._engine.fingerprint)
        is_sound = self._store.is_sound(self._id)  # before it is written again
        if not is_same_model:
            self._store.forget_ids(self._id)
        stored = [one for one in self._store.stored_messages(self._id) if one.place != "cleared"]
        self._saved = [(one.number, one.message, one.place) for one in stored]
        n_dropped = sum(one.place == "dropped" for one in stored)
        self.chat.resume([one.message for one in stored], n_dropped)
        if not (is_sound and all(one.is_sound for one in stored)):
            self._notify(
                "what was said in this session is damaged on disk, and some of it may be wrong; please check it"
            )
        if not is_same_model and stored:
            self._notify(
                "this session was last used with another model, or with keys and values of another type; the model "
                "reads it again with your next message"
            )
        elif ids := self.chat.context_ids:
            self._kv.restore(self.chat.table, ids, KVIndex(self._store.db, self._store.folder, self._id))
        if stored and stored[-1].message.role == "user":
            self._notify("the last message has no answer; its process ended while it was being written")

    def _let_go(self) -> None:
        assert self._lock is not None
        try:
            self._kv.close()
            self._engine.release(self.chat.table)
        finally:
            self._lock.release()
            self._lock = None


def _place(index: int, n_dropped: int) -> Place:
    return "dropped" if index < n_dropped else "context"
