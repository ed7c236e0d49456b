"""Progress off a terminal: a line for each stage that lasts, however many threads report it."""

from threading import Thread

import pytest

from llmrun.cli import progress_display
from llmrun.cli.progress_display import ProgressDisplay


def test_short_stages_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as progress:
        progress("quick", 0, 10)
        progress("quick", 10, 10)
    assert capsys.readouterr().err == ""


def test_one_line_for_a_stage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_display, "SHOW_AFTER_SECONDS", 0)
    with ProgressDisplay() as progress:
        threads = [Thread(target=progress, args=("compiling", i, 10)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        progress("loading", 0, 0)
        progress("compiling", 0, 4)
    assert capsys.readouterr().err == "llmrun: compiling\nllmrun: loading\n"
