"""CLIP's own vocabulary, from the package that has it, as a tokenizer.json.

The package tells ids and texts alone. The vocabulary is ordered: the 256 bytes, the
same at the end of a word, one token for each merge, the two control tokens. So the
merges follow from the texts: a token's parts are what the merges before it leave of it.
"""

import functools
import itertools
import json
from pathlib import Path
from typing import Any

from data_pipelines.console.errors import UserError
from vop_jax.weights.tokenizer_files import FILE
from vop_jax.weights.tokenizer_parts import CLIP_PARTS

CLIP_VOCABULARY = 49408
_CONTROLS = ("<|startoftext|>", "<|endoftext|>")
_SUFFIX = "</w>"
# What makes characters of the bytes that a token begins or ends in the middle of one.
_BEFORE = (b"", b"\xc3", b"\xe1", b"\xf1", b"\xe1\x80", b"\xf1\x80", b"\xf1\x80\x80")
_BEHIND = (b"", *(byte * n for n in (1, 2, 3) for byte in (b"\x80", b"\xbf")))


@functools.cache
def packaged() -> Any:
    """The package's tokenizer.

    Raises:
        ImportError: it is not installed.
    """
    import instant_clip_tokenizer

    return instant_clip_tokenizer.Tokenizer()  # pyright: ignore


def packaged_encode(folder: Path) -> Any:
    """The package's function from a text to ids, for a folder without a tokenizer.

    Where the package is missing, the function raises `UserError`: videos and token ids
    are embedded without it.
    """

    def encode(text: str) -> Any:
        try:
            return packaged().encode(text)
        except ImportError:
            raise UserError(
                f"{folder} has no tokenizer.json, and the package that has CLIP's own, "
                "instant_clip_tokenizer, is not installed (there is none for Python "
                "3.13); put the model's own tokenizer.json there, or convert the model "
                "on Python 3.11 or 3.12, which writes one"
            ) from None

    return encode


def write_packaged_tokenizer(folder: Path) -> bool:
    """Writes CLIP's tokenizer.json; returns whether the package for it is there."""
    try:
        decode = packaged().decode
    except ImportError:
        return False
    symbols = _byte_symbols()
    tokens = [*symbols.values(), *(x + _SUFFIX for x in symbols.values())]
    ids = {byte: i for i, byte in enumerate(symbols)}
    for token in range(len(tokens), CLIP_VOCABULARY - len(_CONTROLS)):
        text = _bytes_of(token, decode, ids)
        end = _SUFFIX if text.endswith(b" ") else ""
        tokens.append("".join(symbols[x] for x in text.removesuffix(b" ")) + end)
    vocabulary = {x: i for i, x in enumerate([*tokens, *_CONTROLS])}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": _CONTROLS[1],
        "continuing_subword_prefix": "",
        "end_of_word_suffix": _SUFFIX,
        "fuse_unk": False,
        "vocab": vocabulary,
        "merges": [" ".join(pair) for pair in _merges(tokens[2 * len(symbols) :])],
    }
    added = [
        {
            "id": vocabulary[name],
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for name in _CONTROLS
    ]
    (first, end) = [[x["content"], x["id"]] for x in added]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        **CLIP_PARTS,
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": end,
            "cls": first,
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": None,
        "model": model,
    }
    (folder / FILE).write_text(json.dumps(content), encoding="utf-8")
    return True


def _byte_symbols() -> dict[int, str]:
    """Byte -> the character that stands for it, in the order of the vocabulary.

    Printable bytes stand for themselves, the others for characters from 256 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [x for x in range(256) if x not in printable]
    return {x: chr(x) for x in printable} | {
        x: chr(256 + i) for i, x in enumerate(others)
    }


def _bytes_of(token: int, decode: Any, ids: dict[int, int]) -> bytes:
    """The bytes of a token, which may begin and end in the middle of a character."""
    for before, behind in itertools.product(_BEFORE, _BEHIND):
        around = [[ids[x] for x in part] for part in (before, behind)]
        text = decode([*around[0], token, *around[1]])
        if "\N{REPLACEMENT CHARACTER}" not in text:
            return text.encode().removeprefix(before).removesuffix(behind)
    # Two tokens have that very character in them.
    return decode([token]).encode()


def _merges(tokens: list[str]) -> list[tuple[str, str]]:
    """The two parts of each token, by the merges before it."""
    ranks: dict[tuple[str, str], int] = {}
    for token in tokens:
        word = token.removesuffix(_SUFFIX)
        parts = [*word]
        parts[-1] += token[len(word) :]
        while len(parts) > 2:
            pairs = list(itertools.pairwise(parts))
            at = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], len(tokens)))
            parts[at : at + 2] = ["".join(pairs[at])]
        ranks[parts[0], parts[1]] = len(ranks)
    return list(ranks)
