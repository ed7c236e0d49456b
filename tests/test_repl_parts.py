"""The parts of the chat that need no terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.cli.markdown_text import row_width
from llmrun.cli.repl_prompt import is_open, unquoted
from llmrun.cli.repl_thoughts import Thoughts
from llmrun.cli.slash_commands import COMMANDS, command_named
from llmrun.cli.status_line import meter, status_line
from llmrun.cli.theme import THEMES, color_of, default_theme
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.reasoning import Reasoning


def split(pieces: list[str], prompt_end: str = "") -> tuple[str, str]:
    reasoning = Reasoning(prompt_end)
    parts = [part for piece in pieces for part in reasoning.feed(piece)] + reasoning.finish()
    return tuple("".join(text for is_thought, text in parts if is_thought is kind) for kind in (True, False))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<think>a</think>b", "a", "b"),
        ("\n <think>\na < b\n</think>\n\nb <think>", "\na < b\n", "\n\nb <think>"),
        ("<thinking>a</think></thinking>b", "a</think>", "b"),
        ("no thoughts </think>", "", "no thoughts </think>"),
        ("<thin", "", "<thin"),
        ("<think>never ends </th", "never ends </th", ""),
        ("<b>bold</b>", "", "<b>bold</b>"),
    ],
)
def test_thoughts_are_told_from_the_answer_in_any_pieces(text: str, thought: str, answer: str) -> None:
    for size in (1, 2, 3, len(text)):
        assert split([text[i : i + size] for i in range(0, len(text), size)]) == (thought, answer)


def test_thoughts_that_the_prompt_began() -> None:
    assert split(["a</thi", "nk>b"], prompt_end="<think>\n") == ("a", "b")


@given(st.text("a \n文", max_size=200), st.sampled_from([8, 40]), st.integers(1, 30))
def test_thoughts_lose_nothing(text: str, width: int, size: int) -> None:
    thoughts, rows = Thoughts(width, "show"), []
    for start in range(0, len(text), size):
        rows += thoughts.feed(text[start : start + size])
        thoughts.open_rows()
    rows += thoughts.finish()
    said = "".join(part for row in rows for part, _ in row[1:])
    assert "".join(said.split()) == "".join(text.split())
    assert all(row_width(row) <= max(width, 40) for row in rows)


def test_the_status_line_fits() -> None:
    for columns in (5, 30, 45, 60, 80):
        line = status_line("a-model", 3600, 4096, 31.4, "a session", columns)
        assert row_width(line) < columns
    assert "".join(text for text, _ in line) == "█████████░ 3,600 of 4,096 tokens · a-model · 31 tok/s · a session"
    assert line[0][1] == ("warning",)
    assert [meter(share) for share in (0, 0.001, 0.5, 1)] == ["░" * 10, "█" + "░" * 9, "█" * 5 + "░" * 5, "█" * 10]


def test_names_of_commands() -> None:
    assert command_named("/bye") is COMMANDS["/quit"]
    with pytest.raises(UsageError, match="did you mean /clear"):
        command_named("/claer")
    assert all(command.help for command in COMMANDS.values())


def test_quotes() -> None:
    assert is_open('"""one')
    assert is_open('"""')
    assert not is_open('"""one"""')
    assert not is_open("one")
    assert unquoted('"""\none\n  two\n"""') == "one\n  two"
    assert unquoted(' say """x"""') == ' say """x"""'


def test_the_theme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("COLORFGBG", raising=False)
    assert default_theme("light", lambda: None).name == "light"
    assert default_theme("", lambda: None).name == "dark"
    assert default_theme("", lambda: (1.0, 1.0, 0.9)).name == "light"
    monkeypatch.setenv("COLORFGBG", "0;15")
    assert default_theme("", lambda: None).name == "light"
    monkeypatch.setenv("NO_COLOR", "1")
    assert default_theme("light", lambda: None).name == "none"
    assert color_of(b"\x1b]11;rgb:ffff/8080/0000\x1b\\") == pytest.approx((1, 0.50196, 0), abs=1e-4)
    assert color_of(b"junk") is None
    assert set(THEMES["dark"].codes) == set(THEMES["light"].codes)
