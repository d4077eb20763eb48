"""Captions to token ids, as OpenAI's CLIP does it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from data_pipelines.captions import clean
from data_pipelines.errors import UserError
from vop_jax.sizes import ClipSize

CLIP_VOCABULARY = 49408


class Tokenizer:
    """Turns strings into ids `[B, N]`: start, words, EOT, zeros.

    Attributes:
        length: N, the most tokens of a caption, start and end included.
    """

    def __init__(self, size: ClipSize, encode: Callable[[str], list[int]], length: int):
        self.length = length
        self._eos = size.eos_id
        self._encode = encode

    def __call__(self, texts: Sequence[str]) -> Int[np.ndarray, "B N"]:
        """Tokenizes; a caption that is too long is cut, its EOT kept."""
        ids = np.zeros((len(texts), self.length), np.int32)
        for row, text in zip(ids, texts, strict=True):
            words = self._encode(clean(text))[: len(row) - 2]
            row[: len(words) + 2] = [self._eos - 1, *words, self._eos]
        return ids


def load_tokenizer(
    folder: Path, size: ClipSize, length: int | None = None
) -> Tokenizer:
    """The tokenizer of a backbone folder, or CLIP's own where it has none.

    Args:
        folder: the backbone's; its `tokenizer.json` is read, or its `vocab.json` and
            `merges.txt`.
        size: of the backbone.
        length: the most tokens of a caption; the whole context by default.

    Raises:
        UserError: the files are damaged, or there are none and the backbone's
            vocabulary is not CLIP's.
    """
    length = length or size.context_length
    file = _folder_tokenizer(folder)
    if file is not None:
        if file.get_vocab_size() > size.vocabulary:
            raise UserError(
                f"{folder}: its tokenizer has {file.get_vocab_size()} tokens, but the "
                f"backbone {size.vocabulary}; they are not of one model"
            )
        return Tokenizer(
            size, lambda text: file.encode(text, add_special_tokens=False).ids, length
        )
    if size.vocabulary != CLIP_VOCABULARY:
        raise UserError(
            f"{folder} has no tokenizer.json, and its vocabulary of {size.vocabulary} "
            f"tokens is not CLIP's of {CLIP_VOCABULARY}; add the file"
        )
    import instant_clip_tokenizer

    packaged = instant_clip_tokenizer.Tokenizer()  # pyright: ignore
    return Tokenizer(size, packaged.encode, length)


def _folder_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder's own files, None where it has none."""
    whole, vocabulary, merges = (
        folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt")
    )
    # Imported late: a CLIP without files of its own needs neither library.
    try:
        if whole.is_file():
            import tokenizers

            return tokenizers.Tokenizer.from_file(str(whole))
        if vocabulary.is_file() and merges.is_file():
            from transformers import CLIPTokenizer

            slow: Any = CLIPTokenizer.from_pretrained(str(folder))
            return slow.backend_tokenizer
    # The library has no class of its own for a file that it cannot read.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: its tokenizer is damaged ({reason})") from None
    return None
