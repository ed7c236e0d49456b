"""Gemma: what the models were taught (FunctionGemma, Gemma 4), and what they are asked for (Gemma 2 and 3).

Sources: Google's pages on function calling with Gemma and on the format of FunctionGemma, and the chat template of
Gemma 4. The first have a notation of their own, {key:value} with marks around strings; the others answer as they are
told, in JSON or as Python calls in a `tool_code` block.
"""

import ast
import json
import warnings

from llmrun.runner.answer_reader import AnswerReader, NotACall, Wait
from llmrun.runner.dialect_generic import Generic, GenericReader
from llmrun.runner.gemma_notation import QUOTES, gemma_value
from llmrun.runner.tool import Tool
from llmrun.runner.tool_dialect import MAX_CALLS, ToolDialect
from llmrun.runner.tool_grammar import Marker, literal

_CALLS = {"<|tool_call>": "<tool_call|>", "<start_function_call>": "<end_function_call>"}
_TOOL_CODE = "tool_code"


class GemmaReader(AnswerReader):
    """<start_function_call>call:name{key:<escape>text<escape>,other:1}<end_function_call>, Gemma 4's in the same way.

    The arguments are no JSON, so they are turned into it when the call is complete.
    """

    openers = tuple(_CALLS)

    def call(self, opener: str) -> Wait:
        """Read one call."""
        yield from self.expect("call:")
        name = yield from self.word()
        written = yield from self.until(_CALLS[opener])
        arguments = gemma_value(written)
        if name not in self.tools or not isinstance(arguments, dict):
            raise NotACall
        self.writer.open_call(name)
        self.writer.arguments(json.dumps(arguments, ensure_ascii=False))
        self.end_call()


class GemmaCalls(ToolDialect):
    """FunctionGemma and Gemma 4. A model that must call writes the arguments as JSON, which a schema can rule."""

    reader = GemmaReader
    markers = (*_CALLS, *_CALLS.values(), *QUOTES)

    def calls_rule(self, parallel: bool, marker: Marker) -> str:
        """Calls in a row."""
        return f"calls: call call{{0,{MAX_CALLS - 1}}}" if parallel else "calls: call"

    def call_rule(self, tool: Tool, arguments: str, marker: Marker) -> str:
        """The name, then the arguments."""
        begin = next(begin for begin in _CALLS if begin in self.template)
        return f"{marker(begin)} {literal('call:' + tool.name)} {arguments} {marker(_CALLS[begin])}"


class GemmaPromptedReader(GenericReader):
    """JSON at the beginning of a line, ```tool_code with Python calls, or [name(key=value)]."""

    def call(self, opener: str) -> Wait:
        """Read one call, or those of a list."""
        if opener == "[" and not (yield from self.follows("{")):
            yield from self.word()
            yield from self._python_list()
        else:
            yield from super().call(opener)

    def fenced(self, language: str) -> Wait:
        """Read a code block of Python calls, or of JSON."""
        if language.strip() != _TOOL_CODE or (yield from self.follows("{", "[")):
            yield from super().fenced(language)
        else:
            self._python((yield from self.until("```")))

    def _python_list(self) -> Wait:
        """Look for the bracket that ends the list, which may come inside strings before."""
        while True:
            yield from self.until("]")
            try:
                _parse(self.text.text[: self.text.at])
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                if self.text.text.find("\n\n", 0, self.text.at) >= 0:
                    raise NotACall from None
                continue
            self._python(self.text.text[: self.text.at])
            return

    def _python(self, code: str) -> None:
        """Take the calls from a piece of Python: expressions, or a list of them."""
        try:
            nodes = [node.value for node in _parse(code) if isinstance(node, ast.Expr)]
            nodes = [part for node in nodes for part in (node.elts if isinstance(node, ast.List) else [node])]
            calls = [self._python_call(node) for node in nodes]
        except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError) as error:
            raise NotACall from error
        if not calls:
            raise NotACall
        for name, arguments in calls:
            self.writer.open_call(name)
            self.writer.arguments(arguments)
            self.end_call()

    def _python_call(self, node: ast.expr) -> tuple[str, str]:
        if not isinstance(node, ast.Call):
            raise NotACall
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "print" and "print" not in self.tools and node.args:
            return self._python_call(node.args[0])
        if name not in self.tools:
            raise NotACall
        keys = list(self.tools[name].schema["properties"])
        if len(node.args) > len(keys) or any(word.arg is None for word in node.keywords):
            raise NotACall
        pairs = [*zip(keys, node.args, strict=False), *((word.arg, word.value) for word in node.keywords)]
        arguments = {key: ast.literal_eval(value) for key, value in pairs}
        return name, json.dumps(arguments, ensure_ascii=False, allow_nan=False)


class GemmaPrompted(Generic):
    """Gemma 2 and 3, which are told of tools in words."""

    reader = GemmaPromptedReader
    key = "parameters"


def _parse(code: str) -> list[ast.stmt]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd escapes in the model's strings
        return ast.parse(code.strip()).body
