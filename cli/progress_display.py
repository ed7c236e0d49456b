"""Progress of long work on standard error: a bar on a terminal, one plain line for each stage elsewhere."""

import sys
import time
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING

from llmrun.cli.say import say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SHOW_AFTER_SECONDS = 0.3  # work that is over sooner needs no bar


class ProgressDisplay:
    """Callable as (stage, done, total); a new stage replaces the one before. Use it in a `with`.

    A stage that ends within SHOW_AFTER_SECONDS is never shown, so a warm start prints nothing and does not import rich.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._stage = ""
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._said: set[str] = set()  # a stage may come back, as when kernels are compiled twice
        self._lock = Lock()  # kernels are compiled by several threads

    def __enter__(self) -> "ProgressDisplay":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, stage: str, done: float, total: float) -> None:
        """Show that `done` of `total` is done; a total of 0 is one that nobody knows yet."""
        with self._lock:
            self._show(stage, done, total)

    def _show(self, stage: str, done: float, total: float) -> None:
        if stage != self._stage:
            self._stage, self._started = stage, time.monotonic()
        if self._bar is None and (time.monotonic() - self._started < SHOW_AFTER_SECONDS or done >= total > 0):
            return
        if sys.stderr.isatty():
            self._draw(stage, done, total)
        elif stage not in self._said:
            say(stage)
            self._said.add(stage)

    def _draw(self, stage: str, done: float, total: float) -> None:
        if self._bar is None:
            self._bar = _new_bar()
            self._bar.start()
        if self._task is None:
            self._task = self._bar.add_task(stage, total=total or None)
        self._bar.update(self._task, description=stage, completed=done, total=total or None)


def _new_bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
