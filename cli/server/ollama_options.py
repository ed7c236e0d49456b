"""The `options` of Ollama's requests: how to choose tokens, and how much context a request may take."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from llmrun.cli.server.no_op import NO_OPS, refuse_unsupported
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.sampler import SamplingParams

_NO_OPS: NO_OPS = {
    "typical_p": (1.0,),
    "tfs_z": (1.0,),
    "mirostat": (0,),
    "vocab_only": (False,),
    "embedding_only": (False,),
}

_SAME_NAME = ("temperature", "top_k", "top_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "min_p")


def _whole(value: object) -> object:
    """A whole number that was written as 40.0, as clients do whose language has one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


class OllamaOptions(BaseModel):
    """What a request may set; a name that is not here is refused.

    Options about the hardware cannot change an answer, and clients send them always: they are taken and do nothing.
    So is `num_keep`, which only matters to a server that drops the beginning of a prompt.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    num_ctx: Whole | None = Field(default=None, ge=1, description="most tokens of prompt and answer of this request")
    num_predict: Whole | None = Field(default=None, description="most tokens of the answer; -1 or -2: as many as fit")
    temperature: float | None = None
    top_k: Whole | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: Whole | None = Field(default=None, description="-1: draw one")
    stop: str | list[str] | None = None
    repeat_penalty: float | None = None
    repeat_last_n: Whole | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    typical_p: float | None = None
    tfs_z: float | None = None
    mirostat: Whole | None = None
    mirostat_tau: float | None = None  # with mirostat 0 it means nothing
    mirostat_eta: float | None = None
    penalize_newline: bool | None = None
    vocab_only: bool | None = None
    embedding_only: bool | None = None

    num_keep: Whole | None = None
    numa: bool | None = None
    num_batch: Whole | None = None
    num_gpu: Whole | None = None
    num_gqa: Whole | None = None
    main_gpu: Whole | None = None
    num_thread: Whole | None = None
    low_vram: bool | None = None
    f16_kv: bool | None = None
    logits_all: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None

    def sampling(self, logprobs: int | None = None) -> SamplingParams:
        """Translate; what is left out has llmrun's own default.

        Raises UsageError, naming the option, for a value that makes no sense or is not supported.
        """
        refuse_unsupported(self.model_dump(), _NO_OPS, "options.")
        values: dict[str, Any] = {name: getattr(self, name) for name in _SAME_NAME if getattr(self, name) is not None}
        if self.penalize_newline is False and self._penalises():
            raise UsageError("options.penalize_newline false is not supported together with penalties; leave it out")
        if self.repeat_last_n is not None:
            values["penalty_last_n"] = self.repeat_last_n
        if self.seed is not None and self.seed != -1:
            values["seed"] = self.seed
        if self.num_predict is not None and self.num_predict not in (-1, -2):
            if self.num_predict < 1:
                raise UsageError(f"options.num_predict must be 1 or more, or -1 (no limit), not {self.num_predict}")
            values["max_tokens"] = self.num_predict
        if self.stop is not None:
            values["stop"] = [self.stop] if isinstance(self.stop, str) else self.stop
        return SamplingParams(**values, logprobs=logprobs)

    def _penalises(self) -> bool:
        return self.repeat_penalty not in (None, 1) or bool(self.presence_penalty) or bool(self.frequency_penalty)
