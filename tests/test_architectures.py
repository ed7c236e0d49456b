"""Every architecture against transformers in float32, on small models with random weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from gguf_files import write_gguf
from random_models import all_logits, batch

from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.cpu_model import CPUModel

N_TOKENS = 150
SIZES: dict[str, Any] = {
    "vocab_size": 131, "hidden_size": 96, "intermediate_size": 208, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


def llama() -> transformers.PreTrainedModel:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, num_hidden_layers=3, head_dim=64))


def llama3() -> transformers.PreTrainedModel:
    config = transformers.LlamaConfig(**SIZES, num_hidden_layers=3, head_dim=64, rope_parameters=LLAMA3)
    return transformers.LlamaForCausalLM(config)


def llama_linear() -> transformers.PreTrainedModel:
    rope = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
    config = transformers.LlamaConfig(**SIZES, num_hidden_layers=2, head_dim=64, rope_parameters=rope)
    return transformers.LlamaForCausalLM(config)


def qwen2() -> transformers.PreTrainedModel:
    sizes = SIZES | {"hidden_size": 256}
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes, num_hidden_layers=3, rope_parameters=rope))


def qwen3() -> transformers.PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
    sizes = SIZES | {"tie_word_embeddings": True}
    config = transformers.Qwen3Config(**sizes, num_hidden_layers=3, head_dim=80, rope_parameters=rope)
    return transformers.Qwen3ForCausalLM(config)


def gemma3() -> transformers.PreTrainedModel:
    return _gemma3({"rope_type": "default", "rope_theta": 1_000_000.0})


def gemma3_linear() -> transformers.PreTrainedModel:
    return _gemma3({"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0})


def _gemma3(rope: dict[str, Any]) -> transformers.PreTrainedModel:
    sizes = SIZES | {"tie_word_embeddings": True}
    config = transformers.Gemma3TextConfig(
        **sizes, num_hidden_layers=8, head_dim=80, query_pre_attn_scalar=80, sliding_window=40,
        rope_parameters={"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
    )  # fmt: skip
    return transformers.Gemma3ForCausalLM(config)


MODELS = [llama, llama3, llama_linear, qwen2, qwen3, gemma3, gemma3_linear]

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
GEMMA3_NAMES = NAMES | {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip


def randomise(model: transformers.PreTrainedModel) -> None:
    """Weights that keep activations at a size of about one, so that every part has a say in the logits."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(generator=generator)
            if weight.ndim == 2:
                weight.mul_(1.0 if "embed" in name else weight.shape[1] ** -0.5)
            elif name.endswith("norm.weight"):  # of Gemma's, one is added by the model
                weight.mul_(0.3).add_(0.0 if "gemma3" in model.config.model_type else 1.0)
            else:
                weight.mul_(0.5)


def tensors(model: transformers.PreTrainedModel) -> dict[str, np.ndarray]:
    """The weights under their GGUF names, as the format's converter stores them."""
    config, kind = model.config, model.config.model_type
    names = GEMMA3_NAMES if kind == "gemma3_text" else NAMES
    result = {}
    for name, weight in model.state_dict().items():
        values = weight.numpy()
        if kind == "llama" and ("q_proj" in name or "k_proj" in name):
            n_heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            halves = values.reshape(n_heads, 2, config.head_dim // 2, values.shape[1])
            values = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
        if kind == "gemma3_text" and name.endswith("norm.weight"):
            values = values + np.float32(1)
        part = name.removeprefix("model.")
        if part.startswith("layers."):
            _, i, part = part.split(".", 2)
            stem, _, ending = part.rpartition(".")
            result[f"blk.{i}.{names[stem]}.{ending}"] = values
        elif not (name == "lm_head.weight" and config.tie_word_embeddings):
            top = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
            result[top.get(part, "output.weight")] = values
    if (config.rope_parameters or {}).get("rope_type") == "llama3":
        result["rope_freqs.weight"] = llama3_factors(config)
    return result


def llama3_factors(config: transformers.PretrainedConfig) -> np.ndarray:
    """By how much each frequency is divided, (head_dim / 2,): what the converter stores as rope_freqs."""
    rope = config.rope_parameters
    rates = rope["rope_theta"] ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    turns = rope["original_max_position_embeddings"] * rates / (2 * np.pi)  # within the first context
    smooth = (turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
    between = 1 / ((1 - smooth) / rope["factor"] + smooth)
    factors = np.where(turns < rope["low_freq_factor"], rope["factor"], between)
    return np.where(turns > rope["high_freq_factor"], 1.0, factors).astype(np.float32)


def metadata(model: transformers.PreTrainedModel) -> dict[str, object]:
    config = model.config
    architecture = config.model_type.removesuffix("_text")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    values: dict[str, object] = {
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "context_length": config.max_position_embeddings,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": head_dim,
    }
    if architecture == "gemma3":
        values["attention.sliding_window"] = config.sliding_window
        rope = rope["full_attention"]
    values["rope.freq_base"] = rope["rope_theta"]
    if rope["rope_type"] == "linear":
        values["rope.scaling.type"] = "linear"
        values["rope.scaling.factor"] = rope["factor"]
    return {"general.architecture": architecture} | {f"{architecture}.{key}": value for key, value in values.items()}


@pytest.mark.parametrize("create", MODELS)
def test_logits_are_those_of_transformers(create: Callable[[], transformers.PreTrainedModel], tmp_path: Path) -> None:
    model = create().eval().float()
    randomise(model)
    tokens = np.random.default_rng(11).integers(0, SIZES["vocab_size"], N_TOKENS)
    with torch.no_grad():
        outputs = model(torch.from_numpy(tokens)[None], use_cache=False, output_hidden_states=True)
    expected, expected_hidden = outputs.logits[0].numpy(), outputs.hidden_states[-1][0].numpy()
    assert expected.std(axis=0).mean() > 0.3 * expected.std(), "the logits hardly depend on the tokens"

    path = write_gguf(tmp_path / "model.gguf", metadata(model), tensors(model))
    with GGUFFile.open(path) as gguf:
        mine = CPUModel(gguf, n_threads=2)
        mine.allocate_kv(4)
        prefill = all_logits(mine, tokens[:140], chunk=140)
        decode = all_logits(mine, tokens, chunk=1)
        mine.allocate_hidden(4)
        hidden = mine.hidden(batch((tokens, 0, [3, 1, 0]))).copy()
        mine.close()
    for found, wanted in ((prefill, expected), (decode, expected), (hidden, expected_hidden)):
        error = np.linalg.norm(found - wanted[: len(found)], axis=-1)
        relative = error / np.linalg.norm(wanted[: len(found)], axis=-1)
        assert relative.max() <= 1e-3, relative.mean()
