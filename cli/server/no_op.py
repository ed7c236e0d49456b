"""Parameters that an API knows and this server does not have: taken only with a value that changes nothing."""

from collections.abc import Mapping

from llmrun.quant_formats.errors import UsageError

NO_OPS = Mapping[str, tuple[object, ...]]
"""Name of a parameter -> the values that mean it is off, the one to recommend first."""


def refuse_unsupported(values: Mapping[str, object], no_ops: NO_OPS, prefix: str = "") -> None:
    """Raise UsageError for the first parameter whose value would change the answer; None counts as left out."""
    for name, off in no_ops.items():
        value = values.get(name)
        if value is not None and value not in off:
            raise UsageError(f"{prefix}{name} is not supported; leave it out{_or(off)}")


def _or(off: tuple[object, ...]) -> str:
    return f" or set it to {off[0]!r}".replace("False", "false").replace("True", "true") if off else ""
