"""Token ids against llama.cpp, on the real vocabularies and on small ones for each way of splitting text."""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xllamacpp
from gguf_files import write_gguf
from hypothesis import given, settings
from hypothesis import strategies as st
from small_vocabularies import LETTERS, byte_level, sentence_piece
from tokenizer_strings import STRINGS

from llmrun.quant_formats.errors import (
    CorruptFile,
    InputError,
    MissingMetadata,
    UnknownPreTokenizer,
    UnsupportedModel,
)
from llmrun.quant_formats.gguf_file import GGUFFile
from llmrun.runner.tokenizer import Tokenizer


class LlamaCpp:
    """llama.cpp's tokenizer, reached through its server."""

    def __init__(self, address: str) -> None:
        self._address = address

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._address}/tokenize", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request) as response:
            ids: list[int] = json.load(response)["tokens"]
        return ids


@contextmanager
def llama_cpp(path: Path) -> Iterator[LlamaCpp]:
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup = 64, 1, False
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)  # stops when nobody holds it
    yield LlamaCpp(server.listening_address)
    del server


def tiny_model(path: Path, metadata: dict[str, Any]) -> Path:
    """Write a llama of one layer around a vocabulary, because llama.cpp's server loads whole models only."""
    width, n_vocab = 32, len(metadata["tokenizer.ggml.tokens"])
    shape = {
        **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (width, width)),
        **dict.fromkeys(("ffn_gate", "ffn_up", "ffn_down"), (width, width)),
        **dict.fromkeys(("attn_norm", "ffn_norm"), (width,)),
    }
    tensors = {f"blk.0.{name}.weight": np.ones(size, np.float32) for name, size in shape.items()}
    tensors["token_embd.weight"] = np.ones((n_vocab, width), np.float32)
    tensors["output_norm.weight"] = np.ones(width, np.float32)
    sizes = {"context_length": 64, "embedding_length": width, "feed_forward_length": width, "block_count": 1}
    heads = {"attention.head_count": 1, "attention.layer_norm_rms_epsilon": 1e-5}
    hyperparameters = {f"llama.{name}": value for name, value in {**sizes, **heads}.items()}
    return write_gguf(path, {"general.architecture": "llama", **hyperparameters, **metadata}, tensors)


def assert_same_ids(path: Path, strings: list[str]) -> None:
    with GGUFFile.open(path) as gguf, llama_cpp(path) as peer:
        tokenizer = Tokenizer.from_gguf(gguf.metadata)
        for text, add_special, parse_special in product(strings, (False, True), (False, True)):
            expected = peer.encode(text, add_special, parse_special)
            assert tokenizer.encode(text, add_special, parse_special) == expected, (text, add_special, parse_special)


def test_there_are_enough_strings() -> None:
    assert len(set(STRINGS)) >= 300


def test_smollm2_gives_the_ids_of_llama_cpp(smollm2_path: Path) -> None:
    assert_same_ids(smollm2_path, STRINGS)


def test_gemma3_gives_the_ids_of_llama_cpp(gemma3_path: Path) -> None:
    assert_same_ids(gemma3_path, STRINGS)


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "smaug-bpe", "qwen2", "smollm"])
def test_each_way_of_splitting_gives_the_ids_of_llama_cpp(pre: str, tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", byte_level(pre))
    assert_same_ids(path, [*STRINGS, "hello unmerged the 123 12345 'LL", "hello  world\n\n hello\r\n"])


@pytest.mark.parametrize("rules", [{}, {"add_space_prefix": False}, {"add_bos_token": False, "add_eos_token": True}])
def test_sentence_piece_gives_the_ids_of_llama_cpp(rules: dict[str, object], tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", sentence_piece(**rules))
    long = "hello world hell  hello\nworld lo▁w" * 100
    assert_same_ids(path, [*STRINGS, long, "hello<extra>world<s> hello</s>", "<extra>", "hellllo  worldé"])


def assert_round_trips(tokenizer: Tokenizer, strings: list[str]) -> None:
    for text in strings:
        assert tokenizer.decode(tokenizer.encode(text, add_special=False), skip_special=False) == text


def test_text_survives_the_round_trip_through_smollm2(smollm2_path: Path) -> None:
    with GGUFFile.open(smollm2_path) as gguf:
        tokenizer = Tokenizer.from_gguf(gguf.metadata)
        # Its vocabulary lacks some bytes that no text of its training had.
        absent = {byte for byte, letter in LETTERS.items() if tokenizer.token_id(letter) is None}
        assert len(absent) < 32
        assert_round_trips(tokenizer, [text for text in STRINGS if not absent & set(text.encode())])


def test_text_survives_the_round_trip_through_gemma3(gemma3_path: Path) -> None:
    with GGUFFile.open(gemma3_path) as gguf:
        # SentencePiece cannot tell its own sign for a space from a space.
        assert_round_trips(Tokenizer.from_gguf(gguf.metadata), [text for text in STRINGS if "▁" not in text])


@pytest.mark.parametrize("metadata", [byte_level("llama-bpe"), byte_level("smollm"), sentence_piece()])
@settings(deadline=None)
@given(text=st.text())
def test_any_text_survives_the_round_trip(metadata: dict[str, Any], text: str) -> None:
    tokenizer = Tokenizer.from_gguf(metadata)
    expected = text.replace("▁", " ") if metadata["tokenizer.ggml.model"] == "llama" else text
    assert tokenizer.decode(tokenizer.encode(text, parse_special=False)) == expected


def test_stop_ids_of_the_real_models(smollm2_path: Path, gemma3_path: Path) -> None:
    stops = {}
    for path in (smollm2_path, gemma3_path):
        with GGUFFile.open(path) as gguf:
            tokenizer = Tokenizer.from_gguf(gguf.metadata)
            stops[path] = {tokenizer.token_bytes(token).decode() for token in tokenizer.stop_ids}
    assert stops[smollm2_path] == {"<|im_end|>", "<|endoftext|>", "<reponame>"}
    # llama.cpp also stops at </s>, which in Gemma's vocabulary is the HTML tag.
    assert stops[gemma3_path] == {"<eos>", "<end_of_turn>"}


def test_an_end_marker_that_the_file_leaves_ordinary_is_special() -> None:
    metadata = byte_level("qwen2")
    metadata["tokenizer.ggml.token_type"] = np.full(len(metadata["tokenizer.ggml.tokens"]), 1, np.int32)
    tokenizer = Tokenizer.from_gguf(metadata)
    [token] = tokenizer.encode("<|im_end|>")
    assert token in tokenizer.stop_ids
    assert tokenizer.is_special(token)
    assert tokenizer.decode([token]) == ""
    assert len(tokenizer.encode("<|im_end|>", parse_special=False)) > 1


def test_special_tokens_are_only_what_the_caller_allows() -> None:
    tokenizer = Tokenizer.from_gguf(byte_level("qwen2"))
    ids = tokenizer.encode("hello<|im_end|>")
    assert ids[-1] == tokenizer.eos_id
    assert tokenizer.decode(ids) == "hello"
    assert tokenizer.decode(ids, skip_special=False) == "hello<|im_end|>"
    assert tokenizer.eos_id not in tokenizer.encode("hello<|im_end|>", parse_special=False)


def test_decoding_builds_no_table() -> None:
    tokenizer = Tokenizer.from_gguf(byte_level("qwen2"))
    assert tokenizer.decode([104, 105]) == "hi"
    assert not {"_vocabulary", "_encoder", "_special_tokens"} & set(vars(tokenizer))


def test_an_unknown_pre_tokenizer_is_named_with_the_known_ones() -> None:
    with pytest.raises(UnknownPreTokenizer, match=r"'klingon'.*llama-bpe.*qwen2.*smollm"):
        Tokenizer.from_gguf(byte_level("klingon"))
    with pytest.raises(UnknownPreTokenizer, match="does not name its pre-tokenizer"):
        Tokenizer.from_gguf(byte_level(None))


def without(metadata: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key != f"tokenizer.ggml.{name}"}


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({}, MissingMetadata, r"tokenizer\.ggml\.model"),
        ({"tokenizer.ggml.model": "t5"}, UnsupportedModel, "'t5'.*gpt2.*llama"),
        ({"tokenizer.ggml.model": 3}, CorruptFile, "type str"),
        (without(byte_level("qwen2"), "tokens"), MissingMetadata, "tokens"),
        (without(byte_level("qwen2"), "merges"), MissingMetadata, "merges"),
        (without(sentence_piece(), "scores"), MissingMetadata, "scores"),
        (byte_level("qwen2", merges=["x"]), CorruptFile, "merges"),
        (byte_level("qwen2", merges=["h \u4e2d"]), CorruptFile, "merges"),
        (byte_level("qwen2", tokens=np.zeros(3)), CorruptFile, "array of strings"),
        (byte_level("qwen2", token_type=np.ones(3, np.int32)), CorruptFile, "3 entries"),
        (sentence_piece(scores=np.ones(3, np.float32)), CorruptFile, "3 entries"),
        (sentence_piece(bos_token_id=2**32 - 1), MissingMetadata, "bos_token_id"),
        (sentence_piece(eos_token_id="no"), CorruptFile, "type int"),
    ],
)
def test_broken_metadata_is_refused_in_one_line(metadata: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        Tokenizer.from_gguf(metadata).encode("hello")
    assert "\n" not in str(caught.value)


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(InputError, match="surrogate at character 2"):
        Tokenizer.from_gguf(byte_level("qwen2")).encode("ab\ud800")
