"""From ids to text, piece by piece."""

import codecs

from llmrun.runner.tokenizer import Tokenizer


class StreamDecoder:
    """Turns the ids of one answer into text as they come, and never shows half a character.

    All pieces together are `tokenizer.decode(ids, continues=True)`: a leading space is kept, because an answer goes
    on where the prompt ended. Special tokens give no text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Start an answer."""
        self._tokenizer = tokenizer
        # A byte that can never become a character turns into U+FFFD; one that still may is held back.
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Take the next id and return the text that is now certain, "" while a character is incomplete."""
        if self._tokenizer.is_special(token):
            return ""
        return self._utf8.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        """Return what was held back, U+FFFD for a character that never came to its end."""
        return self._utf8.decode(b"", final=True)
