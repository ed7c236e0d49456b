"""What --format, --regex and --grammar say."""

from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.quant_formats.errors import UsageError

if TYPE_CHECKING:
    from llmrun.runner.grammar import Grammar


def grammar_of(answer_format: str | None, regex: str | None, grammar_file: str | None) -> "Grammar | None":
    """The grammar that at most one of the options gives.

    Raises UsageError for more than one, a file that cannot be read, or a schema that is no JSON.
    """
    from llmrun.runner.grammar import Grammar

    given = {"--format": answer_format, "--regex": regex, "--grammar": grammar_file}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(names)} each say what the answer looks like; leave all but one of them out")
    if regex is not None:
        return Grammar.regex(regex)
    if grammar_file is not None:
        text = _read("--grammar", grammar_file)
        return Grammar.gbnf(text) if _is_gbnf(grammar_file, text) else Grammar.lark(text)
    if answer_format is None:
        return None
    if answer_format == "json":
        return Grammar.json_object()
    if answer_format.lstrip().startswith("{"):
        return Grammar.json_schema_text(answer_format)
    if not Path(answer_format).is_file():
        raise UsageError(
            f"--format {answer_format} is neither json, nor a file with a JSON schema, nor a schema itself, {{...}}"
        )
    return Grammar.json_schema_text(_read("--format", answer_format))


def _is_gbnf(name: str, text: str) -> bool:
    suffix = Path(name).suffix.lower()
    return suffix == ".gbnf" or (suffix != ".lark" and "::=" in text)


def _read(option: str, name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{option} {name} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{option} {name} is not UTF-8 at byte {error.start}; convert it") from error
