"""Captions to token ids."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from data_pipelines.text.captions import CLEANINGS, clean

# Fewer letters than these may be initials.
_LEAST_LETTERS = 6
# Unknown words that a remark lists.
_MOST_NAMED = 5
_NOTHING = "Nothing of this text reaches the model."
_NONE_KNOWN = "The model knows none of these words, so the order means nothing."


class Tokenizer:
    """Turns strings into ids `[B, N]`: start, words, end, padding.

    Args:
        encode: the words of a text, without start and end.
        start_id: the token in front of them; None if there is none.
        end_id: the token behind them.
        length: N, the most tokens of a caption, start and end included.
        unknown_id: the token of a word that the vocabulary lacks, if there is one.
        pad_id: what fills the rest; a model that reads behind the end token has one of
            its own.
        pad_left: whether that is in front of the caption.
        cleaning: what is done to a text first, keys of `captions.STEPS`.
        control: the texts of the control tokens, which no text contains.
    """

    def __init__(
        self,
        encode: Callable[[str], Sequence[int]],
        *,
        start_id: int | None,
        end_id: int,
        length: int,
        unknown_id: int | None = None,
        pad_id: int = 0,
        pad_left: bool = False,
        cleaning: Sequence[str] = CLEANINGS["clip"],
        control: Sequence[str] = ("<|startoftext|>", "<|endoftext|>"),
    ):
        self.length = length
        self._encode, self._end, self._pad = encode, end_id, pad_id
        self._left = pad_left
        self._start = [] if start_id is None else [start_id]
        self._unknown = unknown_id
        self._cleaning, self._control = cleaning, tuple(control)

    def __call__(self, texts: Sequence[str]) -> Int[np.ndarray, "B N"]:
        """Tokenizes; a caption that is too long is truncated before its end."""
        ids = np.full((len(texts), self.length), self._pad, np.int32)
        for row, text in zip(ids, texts, strict=True):
            words = self._encode(self._clean(text))[: self._words]
            found = [*self._start, *words, self._end]
            begin = len(row) - len(found) if self._left else 0
            row[begin : begin + len(found)] = found
        return ids

    @property
    def _words(self) -> int:
        """The most tokens of a text between start and end."""
        return self.length - len(self._start) - 1

    def _clean(self, text: str) -> str:
        return clean(text, self._cleaning, self._control)

    def knows_any(self, text: str) -> bool:
        """Whether the model knows any word of a text.

        Raises:
            UserError: there is no tokenizer for strings.
        """
        return self.remark(text) not in (_NOTHING, _NONE_KNOWN)

    def remark(self, text: str) -> str:
        """What keeps a text from being understood, a sentence; empty for most texts.

        Raises:
            UserError: there is no tokenizer for strings.
        """
        cleaned = self._clean(text)
        words = cleaned.split()
        tokens = list(self._encode(cleaned))
        if not tokens:
            return _NOTHING
        unknown = [x for x in words if self._unknown in self._encode(x)]
        if len(unknown) == len(words):
            return _NONE_KNOWN
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
        if len(tokens) > self._words:
            return (
                f"The text is longer than the {self._words} tokens that the model "
                "reads; its end is ignored."
            )
        return ""
