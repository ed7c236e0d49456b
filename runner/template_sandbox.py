"""Where chat templates run: what they may call, and how long."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import count
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.environment import Template
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

MAX_LOOP_STEPS = 1_000_000
"""Steps of all loops of one rendering together; a conversation of 10,000 messages takes some 50,000."""

MAX_REPEATED = 1 << 20
"""Longest string or list that a template may build with `*`."""


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """Jinja as chat templates expect it: the whitespace rules, filters and functions that transformers gives them.

    Loops are counted and `**` is refused, so that no template can hang the program.
    """

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        """Make an environment for one template."""
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationBlock])
        self.filters["tojson"] = _to_json
        self.filters[_COUNTED] = self._counted
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        self._steps = count(1)

    def from_string(self, *args: Any, **kwargs: Any) -> Template:
        """Compile a template, whose every rendering starts the count of loop steps anew."""
        template = super().from_string(*args, **kwargs)
        template.root_render_func = self._counting_anew(template.root_render_func)
        return template

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Multiply, with limits."""
        if operator == "**":
            raise SecurityError("the operator ** is not allowed")
        for sized, times in ((left, right), (right, left)):
            if isinstance(sized, str | list | tuple) and isinstance(times, int) and len(sized) * times > MAX_REPEATED:
                raise SecurityError(f"repeats a value to more than {MAX_REPEATED} elements")
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, _COUNTED, [], [], None, None, lineno=loop.lineno)
        return tree

    def _counting_anew(self, render: Any) -> Any:
        def root_render_func(context: Any) -> Iterator[str]:
            self._steps = count(1)
            yield from render(context)

        return root_render_func

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            if next(self._steps) > MAX_LOOP_STEPS:
                raise SecurityError(f"loops for more than {MAX_LOOP_STEPS} steps")
            yield item


_COUNTED = "loop_steps_counted"


class _GenerationBlock(Extension):
    """`{% generation %}` marks the model's words for training; for a prompt it is transparent."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Dump JSON as it is: Jinja's own filter escapes <, > and & for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
