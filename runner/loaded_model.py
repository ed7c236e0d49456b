"""A model of a server: one that can be asked for, and one that is in memory."""

import math
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.quant_formats.errors import MissingFile

if TYPE_CHECKING:
    from llmrun.runner.engine import Engine
    from llmrun.runner.engine_thread import EngineThread
    from llmrun.runner.model_plan import ModelPlan


@dataclass(frozen=True)
class KnownModel:
    """A model that can be asked for."""

    name: str
    path: Path
    digest: str  # 64 hexadecimal digits that identify the file

    @property
    def size(self) -> int:
        """Bytes of the file. Raises MissingFile if it is gone."""
        return self._stat().st_size

    @property
    def modified_at(self) -> datetime:
        """When the file was written. Raises MissingFile if it is gone."""
        return datetime.fromtimestamp(self._stat().st_mtime, UTC)

    def _stat(self) -> os.stat_result:
        try:
            return self.path.stat()
        except OSError as error:
            raise MissingFile(f"{self.name}: the file is not there any more") from error


@dataclass(eq=False)
class LoadedModel:
    """A model that is in memory."""

    known: KnownModel
    engine_thread: "EngineThread"
    plan: "ModelPlan"
    load_seconds: float
    n_users: int = 0  # leases
    last_used: float = field(default_factory=time.monotonic)
    keep_alive: float = math.inf  # seconds, infinity is for ever
    expires_at: datetime | None = None  # None while it is used, and if it is kept for ever

    @property
    def name(self) -> str:
        """What it is asked for by."""
        return self.known.name

    @property
    def path(self) -> Path:
        """Its file; nothing that a client may see."""
        return self.known.path

    @property
    def digest(self) -> str:
        """64 hexadecimal digits that identify the file."""
        return self.known.digest

    @property
    def engine(self) -> "Engine":
        """For looking at what does not change, such as the tokenizer."""
        return self.engine_thread.engine

    @property
    def n_ctx(self) -> int:
        """Most tokens of one prompt with its answer."""
        return self.engine.n_ctx

    @property
    def size(self) -> int:
        """Bytes of memory that it takes, once its cache is full."""
        return self.plan.n_bytes

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses it or waits for what it computes."""
        return self.n_users == 0 and self.engine_thread.n_running + self.engine_thread.n_waiting == 0

    @property
    def reserved_bytes(self) -> int:
        """Bytes of its cache that are not written yet and count as free to the system."""
        cache = self.engine.kv_cache
        return self.plan.kv_bytes * cache.n_free // cache.n_blocks
