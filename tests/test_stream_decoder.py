"""A streamed answer is the decoded answer, and every piece of it is whole characters."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_vocabularies import byte_level, sentence_piece

from llmrun.runner.stream_decoder import StreamDecoder
from llmrun.runner.tokenizer import Tokenizer

TOKENIZERS = [Tokenizer.from_gguf(byte_level("qwen2")), Tokenizer.from_gguf(sentence_piece())]


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = StreamDecoder(tokenizer)
    return [*(decoder.push(token) for token in ids), decoder.flush()]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@settings(deadline=None)
@given(data=st.data())
def test_pieces_of_any_ids_are_the_decoded_text(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.n_vocab - 1)))
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids, continues=True)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@settings(deadline=None)
@given(text=st.text())
def test_text_comes_out_whole_and_without_replacement_characters(tokenizer: Tokenizer, text: str) -> None:
    shown = pieces(tokenizer, tokenizer.encode(text, add_special=False, parse_special=False))
    spaced = " " + text.replace("▁", " ") if text and tokenizer is TOKENIZERS[1] else text
    assert "".join(shown) == spaced


def test_a_character_is_held_back_until_its_last_byte() -> None:
    tokenizer = TOKENIZERS[0]
    assert pieces(tokenizer, list("😀é".encode())) == ["", "", "", "😀", "", "é", ""]


def test_bytes_that_cannot_become_a_character_are_replaced_at_once() -> None:
    assert pieces(TOKENIZERS[0], [0xFF, ord("a"), 0xE4, 0xB8, ord("b"), 0xF0]) == ["�", "a", "", "", "�b", "", "�"]


def test_special_tokens_give_no_text_and_do_not_split_a_character() -> None:
    tokenizer = TOKENIZERS[0]
    assert tokenizer.eos_id is not None
    first, second = "é".encode()
    assert pieces(tokenizer, [first, tokenizer.eos_id, second]) == ["", "", "é", ""]


def test_an_answer_keeps_its_leading_space() -> None:
    tokenizer = TOKENIZERS[1]
    ids = tokenizer.encode("world", add_special=False)
    assert tokenizer.decode(ids) == "world"
    assert "".join(pieces(tokenizer, ids)) == " world"
