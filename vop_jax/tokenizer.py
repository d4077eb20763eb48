"""Captions to token ids, as OpenAI's CLIP does it."""

import html
from collections.abc import Callable, Sequence
from pathlib import Path

import ftfy
import numpy as np
from jaxtyping import Int

from vop_jax.sizes import ClipSize

# In a caption these would become control tokens: the first EOT is read out, so one in
# the middle would cut the caption.
_CONTROL = ("<|startoftext|>", "<|endoftext|>")


class Tokenizer:
    """Turns strings into ids `[B, N]`: start, words, EOT, zeros.

    Attributes:
        size: of the backbone whose vocabulary and context length are used.
    """

    def __init__(self, size: ClipSize, encode: Callable[[str], list[int]]):
        self.size = size
        self._encode = encode

    def __call__(self, texts: Sequence[str]) -> Int[np.ndarray, "B N"]:
        """Tokenizes; a caption that is too long is cut, its EOT kept."""
        ids = np.zeros((len(texts), self.size.context_length), np.int32)
        for row, text in zip(ids, texts, strict=True):
            words = self._encode(basic_clean(text))[: len(row) - 2]
            row[: len(words) + 2] = [self.size.eos_id - 1, *words, self.size.eos_id]
        return ids


def basic_clean(text: str) -> str:
    """OpenAI's cleaning: broken Unicode mended, HTML entities, white space, case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    for control in _CONTROL:
        text = text.replace(control, " ")
    return " ".join(text.split()).lower()


def load_tokenizer(folder: Path, size: ClipSize) -> Tokenizer:
    """The tokenizer of a backbone folder, or CLIP's own where it has none."""
    path = folder / "tokenizer.json"
    if path.is_file():
        import tokenizers

        file = tokenizers.Tokenizer.from_file(str(path))
        return Tokenizer(
            size, lambda text: file.encode(text, add_special_tokens=False).ids
        )
    import instant_clip_tokenizer

    packaged = instant_clip_tokenizer.Tokenizer()  # pyright: ignore
    return Tokenizer(size, lambda text: packaged.encode(text))
