"""Reads a backbone's tokenizer files, and refuses unknown parts.

Only known parts are accepted (`tokenizer_parts`), and a new tokenizer is built from
them. Padding, truncation and the start and end tokens are added by
`data_pipelines.text.tokenizer.Tokenizer`.
"""

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import described, read_json, read_utf8, shown
from vop_jax.weights.tokenizer_parts import (
    ADDED_DEFAULTS,
    CLIP_PARTS,
    NEEDED,
    NORMALIZERS,
    PRE_TOKENIZERS,
    AddedToken,
    File,
    Vocabulary,
    check_padding,
    ids_of,
    known_model,
    known_steps,
    unknown_of,
)

FILE, VOCABULARY, MERGES, ADDED = (
    *("tokenizer.json", "vocab.json", "merges.txt"),
    "added_tokens.json",
)
# Largest size in bytes; XLM-V's 901,629 pieces take 60 MB.
LARGEST_TOKENIZER = 256 << 20
_SUFFIX = "</w>"
# What a tokenizer takes for a word.
_WORD = re.compile(r"\w+|[^\w\s]+")


class TokenizerFile(NamedTuple):
    """A tokenizer that was read.

    Attributes:
        tokenizer: a `tokenizers.Tokenizer`.
        unknown: the id of what the vocabulary lacks, if there is one.
    """

    tokenizer: Any
    unknown: int | None


def read_tokenizer(
    folder: Path, vocabulary: int, control: Collection[int]
) -> TokenizerFile | None:
    """Reads the tokenizer of a folder; None if it has no tokenizer files.

    Args:
        folder: with a `tokenizer.json`, or a `vocab.json` and a `merges.txt`.
        vocabulary: the number of token ids of the backbone.
        control: ids that no text may be encoded to.

    Returns:
        A tokenizer that never yields an id of `control`.

    Raises:
        UserError: a file is damaged, has unknown parts, or does not belong to this
            backbone.
    """
    path = folder / FILE
    # Also what is in the file's place: it is refused where it is read.
    if os.path.lexists(path):
        file = described(read_json(path, LARGEST_TOKENIZER), File, str(path))
    elif all(os.path.lexists(folder / name) for name in (VOCABULARY, MERGES)):
        path = folder / VOCABULARY
        file = _of_two_files(folder)
    else:
        return None
    # Validate the model, its vocabulary and the added tokens.
    check_padding(file, path)
    kind, model = known_model(file["model"], path)
    added = file.get("added_tokens", [])
    _check_ids(ids_of(model), added, vocabulary, path)
    _keep_apart(model, added, control, path)
    # Build a new description from the validated parts alone.
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            ADDED_DEFAULTS | token for token in added if token["id"] not in control
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": model,
    }
    for part, inner, known in (
        ("normalizer", "normalizers", NORMALIZERS),
        ("pre_tokenizer", "pretokenizers", PRE_TOKENIZERS),
    ):
        if file.get(part) is not None or (part, kind) in NEEDED:
            where = f"{path}: {part}"
            whole[part] = known_steps(file.get(part), known[kind], inner, where)
    # Imported late: a CLIP without tokenizer files does not need it.
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(whole))
    # The library raises a plain `Exception` for what it cannot read.
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: its tokenizer is damaged ({reason})") from None
    unknown = unknown_of(model)
    return TokenizerFile(
        tokenizer, None if unknown is None else ids_of(model).get(unknown)
    )


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


def _keep_apart(
    model: dict[str, Any],
    added: Iterable[AddedToken],
    control: Collection[int],
    path: Path,
) -> None:
    """Makes sure that no text is encoded to a token that starts or ends a caption."""
    named = {text: given for text, given in ids_of(model).items() if given in control}
    marked = {x["content"]: x["id"] for x in added if x["id"] in control}
    made = {"".join(pair) for pair in model.get("merges", ())}
    for text, given in (named | marked).items():
        word = text.removesuffix(_SUFFIX)
        if text in made or len(word) <= 1 or _WORD.fullmatch(word):
            raise UserError(
                f"{path}: the word {shown(text)} has the id {given}, which starts or "
                "ends a caption; they are not of one model"
            )
    unknown = unknown_of(model)
    if unknown in named and model["type"] != "BPE":
        raise UserError(
            f"{path}: a word that is not in the vocabulary gives {shown(unknown)}, "
            "which starts or ends a caption"
        )
    if unknown in named:
        # An unknown word would end the caption; it is dropped instead.
        model["unk_token"] = None
    if model["type"] == "Unigram":
        # A piece like any other, and a likely one: no text holds this name of it.
        model["vocab"] = [
            [f"\0{piece}" if i in control else piece, score]
            for i, (piece, score) in enumerate(model["vocab"])
        ]
    else:
        # A text of theirs has the id that the vocabulary gives it.
        model["vocab"] |= {token["content"]: token["id"] for token in added}


def _of_two_files(folder: Path) -> File:
    """Reads a vocabulary and its merges, as in files of 2021 and in OpenAI's."""
    tokens = described(
        read_json(folder / VOCABULARY), Vocabulary, str(folder / VOCABULARY)
    )
    lines = read_utf8(folder / MERGES).splitlines()
    merges = [x for x in lines if x.strip() and not x.startswith("#version")]
    added: dict[str, int] = {}
    if os.path.lexists(folder / ADDED):
        added = described(read_json(folder / ADDED), Vocabulary, str(folder / ADDED))
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
