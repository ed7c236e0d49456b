"""The prompt for what stands between a prefix and a suffix."""

from llmrun.cli.server.errors import BadRequest
from llmrun.quant_formats.errors import PromptTooLong
from llmrun.runner.engine import Engine
from llmrun.runner.fill_in import FillIn


def fill_in_prompt(
    engine: Engine, prefix: str, suffix: str, n_ctx: int | None, max_tokens: int | None
) -> tuple[list[int], frozenset[int]]:
    """Return the ids of the prompt, and those that end the answer.

    Raises BadRequest for a model that was not trained for it, and PromptTooLong where prefix and suffix do not fit the
    context: the replies of this API have no place to say what would be left out.
    """
    fill_in = FillIn.of(engine.tokenizer)
    if fill_in is None:
        message = "this model cannot fill in: it has no tokens for it; leave suffix out, or choose a model for code"
        raise BadRequest(message, "suffix")
    n_ctx = min(n_ctx or engine.n_ctx, engine.n_ctx)
    filled = fill_in.prompt(prefix, suffix, n_ctx=n_ctx, n_predict=max_tokens if max_tokens != -1 else None)
    n_left_out = filled.n_prefix_left_out + filled.n_suffix_left_out
    if n_left_out:
        n_prompt = len(filled.ids) + n_left_out
        raise PromptTooLong(
            f"the prompt and its suffix have {n_prompt} tokens, which leaves too little room for an answer in a "
            f"context of {n_ctx}; send less of them",
            n_prompt,
            n_ctx,
        )
    return filled.ids, fill_in.stop_ids
