"""A long text is encoded in parts, which must make no difference."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_vocabularies import byte_level

import llmrun.runner.byte_level_bpe as module
from llmrun.runner.byte_level_bpe import PRE_TOKENIZERS, ByteLevelBPE

METADATA = byte_level("qwen2")
VOCABULARY = {token: i for i, token in enumerate(METADATA["tokenizer.ggml.tokens"])}
ENCODERS = {
    patterns: ByteLevelBPE(pre_tokenizer, VOCABULARY, METADATA["tokenizer.ggml.merges"])
    for pre_tokenizer in PRE_TOKENIZERS.values()
    for patterns in [(pre_tokenizer.patterns, pre_tokenizer.ignore_merges)]
}
TEXT = st.text(st.sampled_from("ab s't1.\n\r\té\u0301漢 \u00a0"), max_size=40)


def pieces(encoder: ByteLevelBPE, text: str) -> list[str]:
    """What the words are that merges work on."""
    return [piece for piece, _ in encoder._library.pre_tokenizer.pre_tokenize_str(text)]


@settings(deadline=None, max_examples=500)
@given(text=TEXT)
def test_parts_are_split_as_the_whole_is(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART", 1)
        parts = list(module._parts(text))
    assert "".join(parts) == text
    for encoder in ENCODERS.values():
        assert [piece for part in parts for piece in pieces(encoder, part)] == pieces(encoder, text)


def test_a_long_text_is_encoded_in_parts() -> None:
    text = "some words\nand lines " * 10_000
    assert len(list(module._parts(text))) == len(text) // module.PART + 1
    assert len(list(module._parts("漢" * len(text)))) == 1
    for encoder in ENCODERS.values():
        assert encoder.encode(text) == encoder._library.encode(text, add_special_tokens=False).ids
