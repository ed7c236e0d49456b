"""Tokenizers small enough to write down."""

from typing import Any

import numpy as np

from llmrun.runner.special_tokens import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED

Metadata = dict[str, Any]

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
LETTERS = {**{byte: chr(byte) for byte in _PRINTABLE}, **{byte: chr(0x100 + i) for i, byte in enumerate(_OTHERS)}}

WORDS = [
    "hello",
    " world",
    " the",
    "ing",
    "12",
    "123",
    "'s",
    "'LL",
    "  ",
    "    ",
    "\n\n",
    "\r\n",
    "..",
    "==",
    " é",
    "中文",
]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_level(pre: str | None, **settings: object) -> Metadata:
    """256 bytes, a few words joined left to right, one that no merge makes (" unmerged"), and ChatML's markers."""
    tokens = [LETTERS[byte] for byte in range(256)]
    merges: list[str] = []
    for word in WORDS:
        letters = [LETTERS[byte] for byte in word.encode()]
        for i in range(1, len(letters)):
            left, right = "".join(letters[:i]), letters[i]
            if left + right not in tokens:
                tokens.append(left + right)
                merges.append(f"{left} {right}")
    tokens.append(LETTERS[ord(" ")] + "unmerged")
    n_normal = len(tokens)
    tokens += SPECIALS
    return {
        "tokenizer.ggml.model": "gpt2",
        **({"tokenizer.ggml.pre": pre} if pre else {}),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([NORMAL] * n_normal + [CONTROL] * len(SPECIALS), np.int32),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": n_normal,
        "tokenizer.ggml.eos_token_id": n_normal + 2,
        **{f"tokenizer.ggml.{name}": value for name, value in settings.items()},
    }


def sentence_piece(**settings: object) -> Metadata:
    """The layout of Llama 2: three special tokens, 256 bytes, pieces with falling scores, one across a space."""
    pieces = [
        "▁",
        *"abcdehlorw",
        "é",
        "he",
        "ll",
        "hell",
        "hello",
        "▁w",
        "▁wo",
        "rl",
        "rld",
        "▁world",
        "▁hello",
        "▁▁",
        "o▁w",
    ]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, "<extra>"]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(pieces), USER_DEFINED]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.scores": np.array([0.0] * 259 + [-float(i) for i in range(len(pieces))] + [0.0], np.float32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        **{f"tokenizer.ggml.{name}": value for name, value in settings.items()},
    }
