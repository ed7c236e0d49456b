"""The chat template of a model: from messages to the prompt that it was trained on."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from llmrun.quant_formats.errors import CorruptFile, TemplateError


class ChatTemplate:
    """A Jinja template from a GGUF file, run in a sandbox because whoever made the file wrote it."""

    def __init__(self, source: str, bos_token: str = "", eos_token: str = "") -> None:
        """Take the template and the texts of the tokens that it may name; nothing is compiled yet."""
        self.source = source
        self.bos_token = bos_token
        self.eos_token = eos_token

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "ChatTemplate | None":
        """Build from `GGUFFile.metadata`, or return None for a model without a template (a base model)."""
        source = metadata.get("tokenizer.chat_template")
        if source is None:
            return None
        if not isinstance(source, str):
            raise CorruptFile("tokenizer.chat_template should be a string")
        return cls(source, _token_text(metadata, "bos"), _token_text(metadata, "eos"))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
        **variables: Any,
    ) -> str:
        """Return the prompt for `messages`, each with "role" and "content".

        add_generation_prompt ends it where the answer begins. `variables` are what a template may ask for beyond that:
        documents, enable_thinking, date_string ... Where the prompt starts with `bos_token`, encode it without adding
        another. Raises TemplateError when the template does not compile, refuses the messages or fails.
        """
        try:
            prompt: str = self._template.render(
                {
                    "bos_token": self.bos_token,
                    "eos_token": self.eos_token,
                    "messages": list(messages),
                    "tools": tools,
                    "documents": None,
                    "add_generation_prompt": add_generation_prompt,
                    **variables,
                }
            )
            return prompt
        except TemplateError:
            raise
        except Exception as error:  # a template is a program, which may fail in any way
            raise TemplateError(f"the model's chat template failed: {_one_line(error)}") from error

    @cached_property
    def _template(self) -> Any:
        import jinja2  # late: 40 ms that a run without a template need not pay

        from llmrun.runner.template_sandbox import TemplateSandbox

        try:
            return TemplateSandbox().from_string(self.source)
        except jinja2.TemplateSyntaxError as error:
            reason = f"line {error.lineno}: {_one_line(error)}"
        except RecursionError as error:
            reason = _one_line(error)
        raise TemplateError(f"the model's chat template does not compile: {reason}")


def _one_line(error: Exception) -> str:
    message = " ".join(str(error.args[0] if error.args else "").split())
    return message or type(error).__name__


def _token_text(metadata: Mapping[str, Any], name: str) -> str:
    tokens, token = metadata.get("tokenizer.ggml.tokens"), metadata.get(f"tokenizer.ggml.{name}_token_id")
    if tokens is None or not isinstance(token, int) or not 0 <= token < len(tokens):
        return ""
    return str(tokens[token])
