"""Reads a backbone's tokenizer files, and refuses unknown parts.

A tokenizer.json can hold any pipeline of normalizers, regular expressions and
processors. Only known parts are accepted, and a new tokenizer is built from them.
Padding, truncation and the start and end tokens are added by `tokenizer.Tokenizer`.
"""

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from annotated_types import Ge, Le, MaxLen, MinLen
from typing_extensions import TypedDict

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import described, read_json, read_utf8, shown

FILE, VOCABULARY, MERGES, ADDED = (
    *("tokenizer.json", "vocab.json", "merges.txt"),
    "added_tokens.json",
)
_SUFFIX = "</w>"
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_CONTROLS = r"<\|startoftext\|>|<\|endoftext\|>|"


def _words(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Removed",
        "invert": True,
    }


# The known parts, each with all its fields; a field that a file leaves out has the
# value given here. Both patterns are CLIP's, as OpenAI, LAION and Hugging Face publish
# them; versions of Hugging Face's library before 4 and from 5 on write the second.
NORMALIZERS: tuple[dict[str, Any], ...] = (
    {"type": "NFC"},
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    {"type": "Lowercase"},
)
_BYTES = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
# Type of model -> the pre-tokenizers that may split a text for it.
PRE_TOKENIZERS: dict[str, tuple[dict[str, Any], ...]] = {
    "BPE": (_words(_CLIP_WORDS), _words(_CONTROLS + _CLIP_WORDS), _BYTES),
    "WordLevel": ({"type": "Whitespace"},),
}
# What that step takes for a word.
_WORD = re.compile(r"\w+|[^\w\s]+")
# As CLIP's own tokenizer has them.
CLIP_PARTS = {
    "normalizer": {"type": "Sequence", "normalizers": list(NORMALIZERS)},
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": list(PRE_TOKENIZERS["BPE"][1:]),
    },
}

_Vocabulary = dict[str, Annotated[int, Ge(0), Le(2**31 - 1)]]
_Length = Annotated[int, Ge(1), Le(65_536)]


class Bpe(TypedDict):
    """Byte-pair encoding as in CLIP: a word's last token ends in `</w>`."""

    vocab: _Vocabulary
    merges: list[Any]
    end_of_word_suffix: Literal["</w>"]
    unk_token: NotRequired[str | None]
    dropout: NotRequired[None]
    continuing_subword_prefix: NotRequired[Literal[""] | None]
    fuse_unk: NotRequired[Literal[False]]
    byte_fallback: NotRequired[Literal[False]]
    ignore_merges: NotRequired[Literal[False]]


class WordLevel(TypedDict):
    """A model with one token per word."""

    vocab: _Vocabulary
    unk_token: str


MODELS: dict[str, Any] = {"BPE": Bpe, "WordLevel": WordLevel}


class AddedToken(TypedDict):
    """A text that is always a single token."""

    id: Annotated[int, Ge(0), Le(2**31 - 1)]
    content: Annotated[str, MinLen(1), MaxLen(100)]
    single_word: NotRequired[bool]
    lstrip: NotRequired[bool]
    rstrip: NotRequired[bool]
    normalized: NotRequired[bool]
    special: NotRequired[bool]


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
    pre_tokenizer: dict[str, Any]
    model: dict[str, Any]


def read_tokenizer(folder: Path, vocabulary: int, control: Collection[int]) -> Any:
    """Reads the tokenizer of a folder; None if it has no tokenizer files.

    Args:
        folder: with a `tokenizer.json`, or a `vocab.json` and a `merges.txt`.
        vocabulary: the number of token ids of the backbone.
        control: ids that no text may be encoded to.

    Returns:
        A `tokenizers.Tokenizer` that never yields an id of `control`.

    Raises:
        UserError: a file is damaged, has unknown parts, or does not belong to this
            backbone.
    """
    path = folder / FILE
    # Also what is in the file's place: it is refused where it is read.
    if os.path.lexists(path):
        file = described(read_json(path), File, str(path))
    elif all(os.path.lexists(folder / name) for name in (VOCABULARY, MERGES)):
        path = folder / VOCABULARY
        file = _of_two_files(folder)
    else:
        return None
    # Validate the model, its vocabulary and the added tokens.
    padding = file.get("padding")
    if padding and padding["strategy"] != "BatchLongest":
        described(padding["strategy"], Fixed, f"{path}: padding.strategy")
    model = _model(file["model"], path)
    tokens = model["vocab"]
    added = file.get("added_tokens", [])
    _check_ids(tokens, added, vocabulary, path)
    _check_control(model, added, control, path)
    # A text of theirs has the id that the vocabulary gives it.
    tokens |= {token["content"]: token["id"] for token in added}
    # Build a new description from the validated parts alone.
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _ADDED | token for token in added if token["id"] not in control
        ],
        "normalizer": None,
        "post_processor": None,
        "decoder": None,
        "model": model,
    }
    cuts = PRE_TOKENIZERS[model["type"]]
    for part, known in (("normalizer", NORMALIZERS), ("pre_tokenizer", cuts)):
        if file.get(part) is not None:
            whole[part] = _known(file[part], known, f"{part}s", f"{path}: {part}")
    # Imported late: a CLIP without tokenizer files does not need it.
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_str(json.dumps(whole))
    # The library raises a plain `Exception` for what it cannot read.
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: its tokenizer is damaged ({reason})") from None


_ADDED = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}


def _known(
    value: Any, known: Collection[dict[str, Any]], inner: str, where: str
) -> dict[str, Any]:
    """Validates a normalizer or a pre-tokenizer, or a sequence of them."""
    inner = inner.replace("_", "")
    steps = described(value, dict, where)
    if steps.get("type") == "Sequence":
        found = described(steps.get(inner), list, f"{where}.{inner}")
        if not 1 <= len(found) <= len(known):
            raise UserError(f"{where} has {len(found)} steps; CLIP's has 2 or 3")
        return {"type": "Sequence", inner: [_one(x, known, where) for x in found]}
    return _one(steps, known, where)


def _one(value: Any, known: Iterable[dict[str, Any]], where: str) -> dict[str, Any]:
    for part in known:
        # Compared as JSON text, because `False == 0` in Python.
        if isinstance(value, dict) and value.get("type") == part["type"]:
            given, wanted = (
                json.dumps(x, sort_keys=True) for x in (part | value, part)
            )
            if given == wanted:
                return part
    kind = value.get("type") if isinstance(value, dict) else value
    raise UserError(
        f"{where}: {shown(kind)} is not a step of a CLIP tokenizer in a form that is "
        "known; use the tokenizer.json that was published with the model"
    )


def _model(value: dict[str, Any], path: Path) -> dict[str, Any]:
    """The validated model, with its merges as pairs."""
    # Files of 2021 omit the type.
    kind = value.get("type", "BPE" if "merges" in value else None)
    if not isinstance(kind, str) or kind not in MODELS:
        raise UserError(
            f"{path}: model.type is {shown(kind)}; it must be {' or '.join(MODELS)}"
        )
    model = {"type": kind, **described(value, MODELS[kind], f"{path}: model")}
    if "merges" in model:
        model["merges"] = [
            _pair(merge, model["vocab"], f"{path}: model.merges[{i}]")
            for i, merge in enumerate(model["merges"])
        ]
        # Without it the library fails at the first text.
        if model.get("unk_token") not in model["vocab"]:
            model["unk_token"] = None
    elif model["unk_token"] not in model["vocab"]:
        raise UserError(
            f"{path}: model.unk_token is {shown(model['unk_token'])}; it must be in "
            "the vocabulary"
        )
    return model


def _pair(merge: Any, vocabulary: Mapping[str, int], where: str) -> list[str]:
    pair = merge.split(" ") if isinstance(merge, str) else merge
    if (
        not isinstance(pair, list)
        or len(pair) != 2
        or not all(isinstance(x, str) and x for x in pair)
    ):
        raise UserError(f"{where} is {shown(merge)}; it must be two tokens")
    for token in (*pair, "".join(pair)):
        if token not in vocabulary:
            raise UserError(f"{where}: {shown(token)} is not in the vocabulary")
    return pair


def _check_ids(
    tokens: Mapping[str, int], added: Iterable[AddedToken], vocabulary: int, path: Path
) -> None:
    """Checks that every token has a distinct id that the backbone has."""
    ids = dict(tokens)
    for token in added:
        text, given = token["content"], token["id"]
        # The library numbers added tokens from the end of the vocabulary on, whatever
        # the file states.
        if given != ids.setdefault(text, len(ids)):
            raise UserError(
                f"{path}: the added token {shown(text)} has the id {given}; it must be "
                f"{ids[text]}"
            )
    most = max(ids.values(), default=0)
    if most >= vocabulary or len(ids) > vocabulary:
        raise UserError(
            f"{path}: its tokenizer has {len(ids)} tokens, the highest id is {most}, "
            f"but the backbone has {vocabulary} ids; they are not of one model"
        )
    if len(set(ids.values())) < len(ids):
        raise UserError(f"{path}: two of its tokens have the same id")


def _check_control(
    model: dict[str, Any],
    added: Iterable[AddedToken],
    control: Collection[int],
    path: Path,
) -> None:
    """Checks that no text is encoded to the start or end token of a caption."""
    named = {text: given for text, given in model["vocab"].items() if given in control}
    marked = {x["content"]: x["id"] for x in added if x["id"] in control}
    made = {"".join(pair) for pair in model.get("merges", ())}
    for text, given in (named | marked).items():
        word = text.removesuffix(_SUFFIX)
        if text in made or len(word) <= 1 or _WORD.fullmatch(word):
            raise UserError(
                f"{path}: the word {shown(text)} has the id {given}, which starts or "
                "ends a caption; they are not of one model"
            )
    if model.get("unk_token") in named:
        if model["type"] == "WordLevel":
            raise UserError(
                f"{path}: a word that is not in the vocabulary gives "
                f"{shown(model['unk_token'])}, which starts or ends a caption"
            )
        # An unknown word would end the caption; it is dropped instead.
        model["unk_token"] = None


def _of_two_files(folder: Path) -> File:
    """Reads a vocabulary and its merges, as in files of 2021 and in OpenAI's."""
    tokens = described(
        read_json(folder / VOCABULARY), _Vocabulary, str(folder / VOCABULARY)
    )
    lines = read_utf8(folder / MERGES).splitlines()
    merges = [x for x in lines if x.strip() and not x.startswith("#version")]
    added: dict[str, int] = {}
    if os.path.lexists(folder / ADDED):
        added = described(read_json(folder / ADDED), _Vocabulary, str(folder / ADDED))
    order = sorted(added, key=added.__getitem__)
    found: Any = {
        **CLIP_PARTS,
        "added_tokens": [{"id": added[text], "content": text} for text in order],
        "model": {
            "type": "BPE",
            "vocab": tokens,
            "merges": merges,
            "end_of_word_suffix": _SUFFIX,
        },
    }
    return found
