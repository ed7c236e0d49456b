"""`llmrun bench`: how fast a model is here, next to what the memory could do."""

import json
from typing import Annotated

import typer

from llmrun.cli.options import Json, KVTypeName, Model, Threads

REPEATS = 3
WARM_UP_TOKENS = 8

PromptTokens = Annotated[int, typer.Option("--prompt", metavar="N", min=1, help="Tokens of prompt to prefill.")]
Tokens = Annotated[int, typer.Option("--tokens", metavar="N", min=1, help="Tokens to decode.")]
Depth = Annotated[int, typer.Option("--depth", metavar="N", min=0, help="Tokens in the context before decoding.")]
BatchSize = Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Sequences decoded together.")]
Isa = Annotated[
    str | None,
    typer.Option("--isa", metavar="NAME", help="Instruction set of the kernels; default: the best of this processor."),
]


def bench(
    model: Model,
    prompt: PromptTokens = 512,
    tokens: Tokens = 64,
    depth: Depth = 0,
    batch: BatchSize = 1,
    threads: Threads = None,
    isa: Isa = None,
    kv_type: KVTypeName = None,
    as_json: Json = False,
) -> None:
    """Measure prefill and decode: tokens per second, bytes per second, share of the memory's read bandwidth.

    Takes the best of three runs. A step of decoding reads every weight once, and the keys and values of each sequence;
    where some layers have a sliding window, all are counted with it, so the bytes are a lower bound.
    """
    from llmrun.cli.loading import model_path
    from llmrun.cli.model_facts import ModelFacts
    from llmrun.cli.progress_display import ProgressDisplay
    from llmrun.cpu_kernels.kv_types import DEFAULT
    from llmrun.quant_formats.errors import ContextTooLong
    from llmrun.quant_formats.gguf_file import GGUFFile
    from llmrun.runner.loader import load_model
    from llmrun.runner.speed import SpeedTest

    gguf = GGUFFile.open(model_path(model))
    facts = ModelFacts.from_gguf(gguf)
    longest = max(prompt, depth + tokens, WARM_UP_TOKENS)
    if facts.n_ctx and longest > facts.n_ctx:
        raise ContextTooLong(f"{longest} tokens are more than the {facts.n_ctx} the model was trained on; ask for less")
    with ProgressDisplay() as progress:
        loaded = load_model(gguf, n_threads=threads, progress=progress, isa=isa, kv_type=kv_type)
    try:
        test = SpeedTest(loaded, batch, longest)
        test.prefill(WARM_UP_TOKENS)  # touches the weights and compiles what is not compiled yet
        prefill = min(test.prefill(prompt) for _ in range(REPEATS)) / batch
        test.prefill(depth)
        decode = min(test.decode(depth, tokens) for _ in range(REPEATS)) / tokens
        roof = max(loaded.read_speed() for _ in range(REPEATS))
    finally:
        loaded.close()
    seen = min(depth + tokens // 2, facts.sliding_window or longest)
    read = facts.read_bytes + batch * facts.kv_bytes(seen, kv_type or DEFAULT)
    result = {
        "prefill_tokens_per_second": prompt / prefill,
        "decode_tokens_per_second": batch / decode,
        "decode_ms_per_step": decode * 1000,
        "decode_bytes_per_second": read / decode,
        "read_bandwidth": roof,
        "share_of_bandwidth": read / decode / roof,
    }
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(f"prefill  {prompt} tokens: {result['prefill_tokens_per_second']:.1f} tok/s")
    print(
        f"decode   {batch} x {tokens} tokens at depth {depth}: {batch / decode:.1f} tok/s, {decode * 1000:.2f} ms/step"
    )
    print(f"         {read / decode / 1e9:.1f} GB/s, {read / decode / roof:.0%} of the {roof / 1e9:.1f} GB/s measured")
