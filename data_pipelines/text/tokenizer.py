"""Captions to token ids."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from data_pipelines.text.captions import clean

# Fewer letters than these may be initials.
_LEAST_LETTERS = 6
# Unknown words that a remark lists.
_MOST_NAMED = 5


class Tokenizer:
    """Turns strings into ids `[B, N]`: start, words, end, zeros.

    Args:
        encode: the words of a text, without start and end.
        start_id: the token in front of them.
        end_id: the token behind them.
        length: N, the most tokens of a caption, start and end included.
        unknown_id: the token of a word that the vocabulary lacks, if there is one.
    """

    def __init__(
        self,
        encode: Callable[[str], Sequence[int]],
        *,
        start_id: int,
        end_id: int,
        length: int,
        unknown_id: int | None = None,
    ):
        self.length = length
        self._encode, self._ends = encode, (start_id, end_id)
        self._unknown = unknown_id

    def __call__(self, texts: Sequence[str]) -> Int[np.ndarray, "B N"]:
        """Tokenizes; a caption that is too long is truncated before its end."""
        start, end = self._ends
        ids = np.zeros((len(texts), self.length), np.int32)
        for row, text in zip(ids, texts, strict=True):
            words = self._encode(clean(text))[: len(row) - 2]
            row[: len(words) + 2] = [start, *words, end]
        return ids

    def remark(self, text: str) -> str:
        """What keeps a text from being understood, a sentence; empty for most texts.

        Raises:
            UserError: there is no tokenizer for strings.
        """
        cleaned = clean(text)
        words = cleaned.split()
        tokens = list(self._encode(cleaned))
        if not tokens:
            return "Nothing of this text reaches the model."
        unknown = [x for x in words if self._unknown in self._encode(x)]
        if len(unknown) == len(words):
            return "The model knows none of these words, so the order means nothing."
        if unknown:
            some = ", ".join(dict.fromkeys(unknown[:_MOST_NAMED]))
            more = " and others" if len(unknown) > _MOST_NAMED else ""
            return f"The model does not know: {some}{more}."
        letters = sum(map(str.isalpha, cleaned))
        # Words of a language in the vocabulary take a token each, others one for every
        # letter, or several.
        if letters >= _LEAST_LETTERS and len(tokens) >= letters:
            return (
                "The model reads this text letter by letter, as it does for a language "
                "or script that it has not learned."
            )
        if len(tokens) > self.length - 2:
            return (
                f"The text is longer than the {self.length - 2} tokens that the model "
                "reads; its end is ignored."
            )
        return ""
