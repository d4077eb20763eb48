"""The parts of a tokenizer.json that are known, and the refusal of all others.

A file can hold any pipeline of normalizers, regular expressions and processors. Only
the steps of published models are accepted, in the form given here.
"""

import base64
import binascii
import json
import re
import string
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from annotated_types import Ge, Le, Len, MaxLen
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import described, shown

_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_CONTROLS = r"<\|startoftext\|>|<\|endoftext\|>|"
# SentencePiece's sign for a space.
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
# Most bytes of a precompiled table of characters; the published ones have 0.3 MB.
_LONGEST_CHARACTERS = 2 << 20
# Most steps of a pipeline.
_MOST_STEPS = 8


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _words(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Removed",
        "invert": True,
    }


# Each with all its fields; a field that a file leaves out has the value given here.
# The first three are CLIP's; the others SentencePiece's, of SigLIP, Gemma and XLM-V.
CLIP_NORMALIZERS: tuple[dict[str, Any], ...] = (
    {"type": "NFC"},
    _replace({"Regex": r"\s+"}, " "),
    {"type": "Lowercase"},
)
_SPM_NORMALIZERS: tuple[dict[str, Any], ...] = (
    *CLIP_NORMALIZERS,
    {"type": "NFKC"},
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "Prepend", "prepend": _SPACE},
    _replace({"Regex": f"[{re.escape(string.punctuation)}]"}, ""),
    _replace({"Regex": " {2,}"}, " "),
    _replace({"Regex": r"\A +| +\z"}, ""),
    _replace({"Regex": rf"\A{_SPACE}"}, 2 * _SPACE),
    _replace({"String": " "}, _SPACE),
)
# Kind of model -> the steps that may change a text for it.
NORMALIZERS = {
    "BPE": CLIP_NORMALIZERS,
    "BPE of bytes": _SPM_NORMALIZERS,
    "Unigram": _SPM_NORMALIZERS,
    "WordLevel": CLIP_NORMALIZERS,
}
_BYTES = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}


def _metaspaces() -> list[dict[str, Any]]:
    """A space before the text or not, and words apart or not."""
    return [
        {
            "type": "Metaspace",
            "replacement": _SPACE,
            "prepend_scheme": scheme,
            "split": split,
        }
        for scheme in ("always", "first", "never")
        for split in (True, False)
    ]


# Kind of model -> the pre-tokenizers that may split a text for it. Both of CLIP's
# patterns are published by OpenAI, LAION and Hugging Face; versions of Hugging Face's
# library before 4 and from 5 on write the second.
PRE_TOKENIZERS: dict[str, tuple[dict[str, Any], ...]] = {
    "BPE": (_words(_CLIP_WORDS), _words(_CONTROLS + _CLIP_WORDS), _BYTES),
    "BPE of bytes": (
        {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        *_metaspaces(),
    ),
    "Unigram": ({"type": "WhitespaceSplit"}, *_metaspaces()),
    "WordLevel": ({"type": "Whitespace"},),
}
# The parts that a kind of model is never without; Gemma's first files cut nothing.
NEEDED = {("pre_tokenizer", kind) for kind in PRE_TOKENIZERS} - {
    ("pre_tokenizer", "BPE of bytes")
}
# As CLIP's own tokenizer has them.
CLIP_PARTS = {
    "normalizer": {"type": "Sequence", "normalizers": list(CLIP_NORMALIZERS)},
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": list(PRE_TOKENIZERS["BPE"][1:]),
    },
}

Id = Annotated[int, Ge(0), Le(2**31 - 1)]
Vocabulary = dict[str, Id]


class Bpe(TypedDict):
    """Byte-pair encoding as in CLIP: a word's last token ends in `</w>`."""

    vocab: Vocabulary
    merges: list[Any]
    end_of_word_suffix: Literal["</w>"]
    unk_token: NotRequired[str | None]
    dropout: NotRequired[None]
    continuing_subword_prefix: NotRequired[Literal[""] | None]
    fuse_unk: NotRequired[Literal[False]]
    byte_fallback: NotRequired[Literal[False]]
    ignore_merges: NotRequired[Literal[False]]


class ByteBpe(TypedDict):
    """Byte-pair encoding as in Gemma: an unknown character gives its bytes' tokens."""

    vocab: Vocabulary
    merges: list[Any]
    byte_fallback: Literal[True]
    unk_token: NotRequired[str | None]
    dropout: NotRequired[None]
    continuing_subword_prefix: NotRequired[Literal[""] | None]
    end_of_word_suffix: NotRequired[Literal[""] | None]
    fuse_unk: NotRequired[bool]
    ignore_merges: NotRequired[bool]


class Unigram(TypedDict):
    """SentencePiece's unigram model: pieces and their logarithmic probabilities."""

    vocab: list[Annotated[list[Any], Len(2, 2)]]
    unk_id: Id
    byte_fallback: NotRequired[bool]


class WordLevel(TypedDict):
    """A model with one token per word."""

    vocab: Vocabulary
    unk_token: str


# Kind -> the library's name of it, and the description.
_KINDS: dict[str, tuple[str, Any]] = {
    "BPE": ("BPE", Bpe),
    "BPE of bytes": ("BPE", ByteBpe),
    "Unigram": ("Unigram", Unigram),
    "WordLevel": ("WordLevel", WordLevel),
}


def known_steps(
    value: Any, known: Collection[dict[str, Any]], inner: str, where: str
) -> dict[str, Any]:
    """Validates a normalizer or a pre-tokenizer, or a sequence of them.

    Args:
        value: of the file.
        known: the steps that are accepted.
        inner: the key of a sequence's steps.
        where: names the part in an error.
    """
    steps = described(value, dict, where)
    if steps.get("type") != "Sequence":
        return _one(steps, known, where)
    found = described(steps.get(inner), list, f"{where}.{inner}")
    if not 1 <= len(found) <= _MOST_STEPS:
        raise UserError(
            f"{where} has {len(found)} steps; a tokenizer has 1 to {_MOST_STEPS}"
        )
    return {"type": "Sequence", inner: [_one(x, known, where) for x in found]}


def _one(value: Any, known: Collection[dict[str, Any]], where: str) -> dict[str, Any]:
    kind = value.get("type") if isinstance(value, dict) else value
    if kind == "Precompiled" and known is _SPM_NORMALIZERS:
        return _precompiled(value, where)
    if isinstance(value, dict):
        # Versions before 0.15 of the library write the second of two fields.
        value = {k: x for k, x in value.items() if k not in _OLD.get(str(kind), ())}
        for part in known:
            # Compared as JSON text, because `False == 0` in Python.
            given, wanted = (
                json.dumps(x, sort_keys=True) for x in (part | value, part)
            )
            if kind == part["type"] and given == wanted:
                return part
    raise UserError(
        f"{where}: {shown(kind)} is not a step of a known tokenizer in a form that is "
        "known; use the tokenizer.json that was published with the model"
    )


# Fields that say what another field says.
_OLD = {"Metaspace": ("str_rep", "add_prefix_space")}


def _precompiled(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A table of characters, which is data alone; its length is limited."""
    text: Any = value.get("precompiled_charsmap")
    try:
        content = base64.b64decode(text, validate=True)
        # The length of its first part, in bytes.
        size = int.from_bytes(content[:4], "little")
        fits = len(content) <= _LONGEST_CHARACTERS and 0 < size <= len(content) - 4
    except (TypeError, ValueError, binascii.Error):
        fits = False
    if not fits:
        raise UserError(
            f"{where}: precompiled_charsmap is not a table of characters; fetch the "
            "file again"
        )
    return {"type": "Precompiled", "precompiled_charsmap": text}


def known_model(value: Mapping[str, Any], path: Path) -> tuple[str, dict[str, Any]]:
    """The kind and the validated model of a file, with its merges as pairs."""
    kind = _kind_of(value, path)
    name, description = _KINDS[kind]
    model = {"type": name, **described(value, description, f"{path}: model")}
    if kind == "Unigram":
        _check_pieces(model, path)
        return kind, model
    if "merges" in model:
        _check_pairs(model, path)
        # Without it the library fails at the first text.
        if model.get("unk_token") not in model["vocab"]:
            model["unk_token"] = None
    elif model["unk_token"] not in model["vocab"]:
        raise UserError(
            f"{path}: model.unk_token is {shown(model['unk_token'])}; it must be in "
            "the vocabulary"
        )
    return kind, model


def _kind_of(value: Mapping[str, Any], path: Path) -> str:
    # Files of 2021 omit the type.
    name = value.get("type", "BPE" if "merges" in value else None)
    ends = value.get("end_of_word_suffix")
    if name == "BPE" and value.get("byte_fallback") is True and not ends:
        return "BPE of bytes"
    if not isinstance(name, str) or name not in dict(_KINDS.values()):
        names = dict.fromkeys(known for known, _ in _KINDS.values())
        raise UserError(
            f"{path}: model.type is {shown(name)}; it must be {' or '.join(names)}"
        )
    return name


def _check_pieces(model: dict[str, Any], path: Path) -> None:
    pieces = model["vocab"]
    for i, (piece, score) in enumerate(pieces):
        if not isinstance(piece, str) or type(score) not in (int, float):
            raise UserError(
                f"{path}: model.vocab[{i}] is {shown(pieces[i])}; it must be a piece "
                "and its score"
            )
    if model["unk_id"] >= len(pieces):
        raise UserError(
            f"{path}: model.unk_id is {model['unk_id']}; the vocabulary has "
            f"{len(pieces)} pieces"
        )


def _check_pairs(model: dict[str, Any], path: Path) -> None:
    """Makes pairs of the merges, all of whose parts are in the vocabulary."""
    known = model["vocab"]
    pairs = []
    for i, merge in enumerate(model["merges"]):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        where = f"{path}: model.merges[{i}]"
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(x, str) and x for x in pair)
        ):
            raise UserError(f"{where} is {shown(merge)}; it must be two tokens")
        for token in (*pair, "".join(pair)):
            if token not in known:
                raise UserError(f"{where}: {shown(token)} is not in the vocabulary")
        pairs.append(pair)
    model["merges"] = pairs


def ids_of(model: Mapping[str, Any]) -> dict[str, int]:
    """The id of each token of a model."""
    if model["type"] == "Unigram":
        return {piece: i for i, (piece, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def unknown_of(model: Mapping[str, Any]) -> str | None:
    """The token of what the vocabulary lacks; None if there is none."""
    if model["type"] == "Unigram":
        return model["vocab"][model["unk_id"]][0]
    return model.get("unk_token")


class AddedToken(TypedDict):
    """A text that is always a single token."""

    id: Id
    content: Annotated[str, Len(1, 100)]
    single_word: NotRequired[bool]
    lstrip: NotRequired[bool]
    rstrip: NotRequired[bool]
    normalized: NotRequired[bool]
    special: NotRequired[bool]


_Length = Annotated[int, Ge(1), Le(65_536)]


class Truncation(TypedDict):
    """The truncation settings; accepted but not used."""

    max_length: _Length


class Fixed(TypedDict):
    """Padding to one length."""

    Fixed: _Length


class Padding(TypedDict):
    """The padding settings; accepted but not used."""

    # `BatchLongest`, or an object.
    strategy: Any
    pad_to_multiple_of: NotRequired[_Length | None]


class File(TypedDict):
    """The fields of a tokenizer.json that are read."""

    truncation: NotRequired[Truncation | None]
    padding: NotRequired[Padding | None]
    added_tokens: NotRequired[Annotated[list[AddedToken], MaxLen(10_000)]]
    normalizer: NotRequired[dict[str, Any] | None]
    pre_tokenizer: NotRequired[dict[str, Any] | None]
    model: dict[str, Any]


ADDED_DEFAULTS = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}


def check_padding(file: File, path: Path) -> None:
    """Checks the padding settings, which are not used."""
    padding = file.get("padding")
    if padding and padding["strategy"] != "BatchLongest":
        described(padding["strategy"], Fixed, f"{path}: padding.strategy")
