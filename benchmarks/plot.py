"""Draws what `vs_llama_cpp.py --json` wrote as an SVG: a row for each model, a group of bars for each case.

A bar carries a runner's tokens a second; those of a group are to scale, and the tallest fills the row.
"""

import argparse
import json
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

WIDTH, LEFT, ROW_HEIGHT, BAR_HEIGHT, TOP = 900, 16, 200, 120, 56
BAR_GAP, GROUP_GAP, MAX_BAR = 3, 24, 44
COLOURS = ["#1f6feb", "#8c959f", "#d4a72c", "#bf8700", "#57606a"]  # llmrun's first
FONT = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"'


def svg(results: list[dict[str, Any]]) -> str:
    """The whole picture; `results` are the contents of the files."""
    names = list(dict.fromkeys(name for result in results for case in result["cases"] for name in case["speeds"]))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    height = TOP + ROW_HEIGHT * len(results) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT} font-size="12" fill="#1f2328">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        *_legend(colours),
    ]
    for i, result in enumerate(results):
        parts += _row(result, colours, TOP + i * ROW_HEIGHT)
    return "\n".join([*parts, "</svg>\n"])


def _legend(colours: dict[str, str]) -> list[str]:
    parts, x = [_text(LEFT, 18, "tokens a second; the bars of a group are to scale", 'fill="#59636e"')], LEFT
    for name, colour in colours.items():
        parts.append(f'<rect x="{x}" y="28" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(x + 17, 38, name))
        x += 40 + 7 * len(name)
    return parts


def _row(result: dict[str, Any], colours: dict[str, str], top: int) -> list[str]:
    title = f"{result['model']}, {result['threads']} threads"
    base = top + 30 + BAR_HEIGHT + 14
    parts = [_text(LEFT, top + 16, title, 'font-weight="600" font-size="14"')]
    parts.append(f'<path d="M{LEFT} {base + 0.5}H{WIDTH - LEFT}" stroke="#d1d9e0"/>')
    room = (WIDTH - 2 * LEFT) / len(result["cases"])
    for i, case in enumerate(result["cases"]):
        medians = {name: median(speeds) for name, speeds in case["speeds"].items()}
        full = max(medians.values())
        width = min(MAX_BAR, (room - GROUP_GAP) / len(colours) - BAR_GAP)
        x = LEFT + room * i + (room - len(medians) * (width + BAR_GAP)) / 2
        for name, speed in medians.items():
            bar = BAR_HEIGHT * speed / full
            place = f'x="{x:.1f}" y="{base - bar:.1f}" width="{width:.1f}" height="{bar:.1f}"'
            parts.append(f'<rect {place} fill="{colours[name]}"/>')
            label = f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}"
            parts.append(_text(x + width / 2, base - bar - 4, label, 'text-anchor="middle" font-size="11"'))
            x += width + BAR_GAP
        middle = LEFT + room * (i + 0.5)
        parts.append(_text(middle, base + 16, case["case"]["name"], 'text-anchor="middle" fill="#59636e"'))
    return parts


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="what vs_llama_cpp.py wrote, one a model")
    parser.add_argument("out", type=Path, help="the SVG to write")
    options = parser.parse_args()
    results = [json.loads(path.read_text(encoding="utf-8")) for path in options.results]
    options.out.write_text(svg(results), encoding="utf-8")


if __name__ == "__main__":
    main()
