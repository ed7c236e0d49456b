"""Markdown as it streams: the same screen whatever the pieces, and as few rows as possible written twice."""

import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from terminal_screen import Screen

from llmrun.cli.markdown_code import CodeLines
from llmrun.cli.markdown_inline import inline_spans, with_ends
from llmrun.cli.markdown_stream import MarkdownStream
from llmrun.cli.markdown_text import row_width, wrap
from llmrun.cli.repl_canvas import Canvas
from llmrun.cli.theme import THEMES

ANSWER = """\
# Why the sky is blue

The **sky** is blue because of *Rayleigh scattering*: light of short `wavelengths` is scattered more than light of long
ones, [as he found](https://example.org/rayleigh) in 1871.

1. **First**: sunlight is white.
2. **Second**: air scatters
   - blue a lot, and
   - red a little.

   Which is why evenings are red.
3. Third

> A quote
> of two lines

```python
def blue(sky: str) -> bool:
    \"\"\"Whether it is.

    Mostly.\"\"\"
    return sky == "blue"  # not at night
```

| colour | wavelength | how much |
|:-------|-----------:|:--------:|
| red    | 700 nm     | 1        |
| blue   | 450 nm     | 5.9      |

---
天空是蓝色的，因为阳光中的蓝光比红光更容易被大气散射。这种现象称为瑞利散射，由英国物理学家瑞利勋爵发现。 🎉👩‍👧 ok
"""


def shown(pieces: list[str], columns: int = 80, rows: int = 24, frames: int = 1) -> Screen:
    """The screen after an answer in these pieces, drawn after each `frames` of them."""
    screen = Screen(columns, rows)
    stream, canvas = MarkdownStream(columns - 1), Canvas(screen.write, THEMES["dark"], rows)
    settled = []
    for i, piece in enumerate(pieces):
        settled += stream.feed(piece)
        if i % frames == 0:
            canvas.update(settled, stream.open_rows())
            settled = []
    canvas.update([*settled, *stream.finish()], [])
    canvas.leave()
    return screen


def cut(text: str, seed: int) -> list[str]:
    generator = random.Random(seed)
    cuts = sorted(generator.sample(range(len(text) + 1), min(len(text), generator.randrange(1, 60))))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def test_what_it_looks_like() -> None:
    assert shown([ANSWER]).lines == [
        "Why the sky is blue",
        "",
        "The sky is blue because of Rayleigh scattering: light of short wavelengths is",
        "scattered more than light of long",
        "ones, as he found (https://example.org/rayleigh) in 1871.",
        "",
        "1. First: sunlight is white.",
        "2. Second: air scatters",
        "   • blue a lot, and",
        "   • red a little.",
        "",
        "   Which is why evenings are red.",
        "3. Third",
        "",
        "│ A quote",
        "│ of two lines",
        "",
        "─── python " + "─" * 29,
        "def blue(sky: str) -> bool:",
        '    """Whether it is.',
        "",
        '    Mostly."""',
        '    return sky == "blue"  # not at night',
        "─" * 40,
        "",
        "colour │ wavelength │ how much",
        "───────┼────────────┼─────────",
        "red    │     700 nm │    1",
        "blue   │     450 nm │   5.9",
        "",
        "─" * 40,
        *shown([ANSWER]).lines[-2:],
    ]


def test_styles() -> None:
    screen = shown(["a **strong** and *soft* and ~~gone~~ and `code` and **`both`**"])
    assert "bold" in screen.style("strong")
    assert "italics" in screen.style("soft")
    assert "strikethrough" in screen.style("gone")
    assert screen.style("code") == {"ffaf87"}
    assert screen.style("both") == {"bold", "ffaf87"}


@pytest.mark.parametrize("seed", range(12))
def test_any_cut_gives_the_same_screen(seed: int) -> None:
    whole = shown([ANSWER])
    pieces = shown(cut(ANSWER, seed), frames=seed % 3 + 1)
    assert pieces.lines == whole.lines
    assert pieces.screen.display == whole.screen.display


def test_character_by_character_is_the_same() -> None:
    assert shown(list(ANSWER)).lines == shown([ANSWER]).lines


BITS = [
    "*",
    "**",
    "`",
    "```\n",
    "~~",
    "_",
    "[",
    "](u)",
    "\n",
    "\n\n",
    "- ",
    "1. ",
    "> ",
    "#",
    "| a | b |\n|---|---|\n",
    "| c |",
]
WORDS = [
    "word",
    " ",
    "  ",
    "中文",
    "，",
    "🎉",
    "a\u0301",
    "x" * 90,
    "lorem ipsum " * 20,
    "\t",
    "    code",
    "---",
    "\\",
    "&lt;",
    "<b>",
]


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.sampled_from(BITS + WORDS), max_size=40).map("".join), st.integers(0, 1000), st.sampled_from([20, 80])
)
@example("| a | b |\n|---|---|\n" + "| c | d |\n" * 20, 1, 80)
@example("- a\n" * 60, 2, 80)
@example("```py\n" + "x = 1\n\n" * 40 + "```\nend", 3, 80)
def test_any_text_in_any_pieces(text: str, seed: int, columns: int) -> None:
    # the screen is high, because what has left it at the top cannot be corrected
    whole = shown([text], columns, 400)
    assert shown(cut(text, seed), columns, 400).lines == whole.lines


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(BITS + WORDS), max_size=30).map("".join), st.sampled_from([12, 40, 79]))
def test_no_row_is_too_wide_and_no_word_is_lost(text: str, columns: int) -> None:
    stream = MarkdownStream(columns)
    rows = [*stream.feed(text), *stream.finish()]
    assert all(row_width(row) <= columns for row in rows)
    said = "".join(part for row in rows for part, _ in row)
    for word in ("中文", "word", "lorem"):
        if not set("[`<|") & set(text):  # an address may hold a word twice, or break it
            assert "".join(said.split()).count(word) >= text.count(word) - text.count("\n") * (columns < 20)


def test_a_long_answer_settles_as_it_goes() -> None:
    stream = MarkdownStream(79)
    for text in (
        "word " * 2000,
        "- item **bold** text\n" * 200,
        "```c\n" + "int x = 1;\n" * 300 + "```\n",
        "line\n" * 200,
    ):
        most = 0
        for start in range(0, len(text), 7):
            stream.feed(text[start : start + 7])
            most = max(most, len(stream.open_rows()))
        assert most <= 10, text[:20]
        stream = MarkdownStream(79)


def test_a_mark_without_partner_is_text_in_the_end() -> None:
    text = "2 ** 10 and **bold " + "word " * 300 + "and `code"
    assert shown(list(text)).lines == shown([text]).lines
    assert "and **bold word" in shown([text]).text
    assert "`code" in shown([text]).text


def test_spans_that_are_open_are_styled_at_once() -> None:
    assert inline_spans(with_ends("a **bo")) == [("a ", ()), ("bo", ("strong",))]
    assert inline_spans(with_ends("a *it and `co")) == [
        ("a ", ()),
        ("it and ", ("emphasis",)),
        ("co", ("emphasis", "code")),
    ]
    assert inline_spans(with_ends("see [here](http://a")) == [
        ("see ", ()),
        ("here", ("link",)),
        (" (http://a)", ("address",)),
    ]
    assert with_ends("a * b and 3 * 4") == "a * b and 3 * 4"


def test_rows_are_rarely_written_twice() -> None:
    written: list[str] = []
    stream, canvas = MarkdownStream(79), Canvas(written.append, THEMES["dark"], 24)
    for character in ANSWER:
        canvas.update(stream.feed(character), stream.open_rows())
    canvas.update(stream.finish(), [])
    assert sum("\x1b[" in text and "A" in text for text in written) < 30
    assert sum(map(len, written)) < 20 * len(ANSWER)


def test_controls_of_the_terminal_are_not_passed_on() -> None:
    assert "\x1b" not in "".join(
        part for row in [*MarkdownStream(79).feed("a\x1b[2Jb\x07\x9b1m\n\n")] for part, _ in row
    )
    assert shown(["safe \x1b]52;c;AAAA\x07 text\r\nmore"]).lines == ["safe \ufffd]52;c;AAAA\ufffd text", "more"]


@pytest.mark.parametrize("language", ["python", "c", "nonsense", "", "diff"])
def test_code_line_by_line_is_code_at_once(language: str) -> None:
    code = Path(__file__).read_text(encoding="utf-8")[:3000] + "\n"
    lines = CodeLines(language)
    for end in range(1, len(code), 37):
        lines.rows(code[:end])
    assert ["".join(t for t, _ in row) for row in lines.rows(code)] == code.expandtabs(4).split("\n")[:-1]
    if language == "python":
        assert lines.rows(code) == CodeLines(language).rows(code)


def test_wide_characters_wrap_within_the_width() -> None:
    rows = wrap([("天空是蓝色的，因为阳光中的蓝光" * 3, ()), ("bold words", ("strong",))], 20)
    assert all(row_width(row) <= 20 for row in rows)
    assert not any(row[0][0].startswith("，") for row in rows)


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize(("before", "after"), [(79, 39), (39, 79), (79, 78), (59, 29)])
def test_another_width_in_the_middle_loses_and_repeats_nothing(before: int, after: int, keeps: bool) -> None:
    text = " ".join(f"word{i}" for i in range(200)) + "\n\n```c\nint a;\nint b;\n```\n\nend"
    for end in range(0, len(text), 97):
        stream = MarkdownStream(before)
        rows = stream.feed(text[:end])
        still_open = stream.open_rows()
        stream.resize(after, keeps_open_rows=keeps)
        rows += [*(still_open if keeps else []), *stream.feed(text[end:]), *stream.finish()]
        said = "".join(part for row in rows for part, _ in row if "─" not in part)
        assert "".join(said.split()) == "".join(text.replace("```c", "").replace("```", "").split())


def test_the_canvas_replaces_rows_only_where_they_fit() -> None:
    screen = Screen(80, 24)
    canvas = Canvas(screen.write, THEMES["none"], 24)
    canvas.update([[("settled", ())]], [[("x" * 60, ())], [("status", ())]])
    assert canvas.fits(60)
    assert not canvas.fits(59)
    canvas.leave(without_last=True)
    canvas.update([], [[("on", ())], [("status", ())]])
    canvas.update([[("on and on", ())]], [])
    canvas.leave()
    assert screen.lines == ["settled", "x" * 60, "on and on"]
