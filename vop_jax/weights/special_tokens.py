"""The EOT token of a CLIP, which ends a caption, from its tokenizer.

The text tower reads its embedding at the EOT token. `config.json` states its id, except
where it says 2: files of 2021 have that for every CLIP, whatever its tokenizer.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import read_json
from vop_jax.model.clip.sizes import ClipSize

# The `eos_token_id` of files that do not state the real one; see
# https://github.com/huggingface/transformers/pull/24773.
UNKNOWN = 2
_NAMES = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}


class Ends(NamedTuple):
    """The ids of the tokens that start and end a caption."""

    start: int
    end: int


def end_token(
    folder: Path | None, vocabulary: int, stated: int | None, where: str
) -> int:
    """The id of the EOT token.

    Args:
        folder: where tokenizer files may be, or None.
        vocabulary: number of token ids of the text tower.
        stated: the `eos_token_id` of its configuration, None if there is none.
        where: names the model in an error.

    Raises:
        UserError: it is not stated, the files disagree, or the start token is not the
            id before it, as in every CLIP.
    """
    known = None if stated == UNKNOWN else stated
    ends = folder_ends(folder) if folder else None
    # Without tokenizer files it gets OpenAI's tokenizer.
    if ends is None and vocabulary == ClipSize.vocabulary:
        ends = Ends(ClipSize.eos_id - 1, ClipSize.eos_id)
    if ends is None:
        if known is None:
            raise UserError(
                f"{where} does not say which token ends a caption: its vocabulary of "
                f"{vocabulary:,} tokens is not CLIP's of {ClipSize.vocabulary:,}, and "
                "there is no tokenizer.json beside it; add the model's own"
            )
        return known
    if ends.end >= vocabulary:
        raise UserError(
            f"{where}: its tokenizer ends a caption with token {ends.end}, but the "
            f"vocabulary has {vocabulary:,}; they are not of one model"
        )
    if known not in (None, ends.end):
        raise UserError(
            f"{where}: config.json has eos_token_id {known}, but its tokenizer ends a "
            f"caption with token {ends.end}; correct the one that is wrong"
        )
    if ends.start != ends.end - 1:
        raise UserError(
            f"{where}: its tokenizer starts a caption with token {ends.start} and ends "
            f"it with {ends.end}; only CLIP's own order, one after the other, is "
            "supported"
        )
    return ends.end


def folder_ends(folder: Path) -> Ends | None:
    """The special tokens of a folder's own tokenizer; None if it has none.

    Raises:
        UserError: a file is damaged, or lacks these tokens.
    """
    found = _token_ids(folder)
    if found is None:
        return None
    file, ids = found
    names = dict(_NAMES)
    # The later file takes precedence, as in the library that writes them.
    for other in ("special_tokens_map.json", "tokenizer_config.json"):
        if os.path.lexists(folder / other):
            names |= _named(_object(folder / other))
    for name in names.values():
        if type(ids.get(name)) is not int or ids[name] < 0:
            raise UserError(f"{file} has no token {name[:60]!r}, as a CLIP's has")
    return Ends(ids[names["bos_token"]], ids[names["eos_token"]])


def _named(values: dict[str, Any]) -> dict[str, str]:
    """The special tokens that a file names; each a string or an object."""
    found = {}
    for key in _NAMES:
        value = values.get(key)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            found[key] = value
    return found


def _token_ids(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The file with the vocabulary, and the token ids."""
    path, vocabulary = folder / "tokenizer.json", folder / "vocab.json"
    # Also what is in the file's place: it is refused where it is read.
    if os.path.lexists(path):
        values = _object(path)
        model, added = values.get("model"), values.get("added_tokens") or []
        tokens = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(tokens, list):
            names = [x[0] if isinstance(x, list) and x else None for x in tokens]
            tokens = {x: i for i, x in enumerate(names) if isinstance(x, str)}
        if isinstance(tokens, dict) and isinstance(added, list):
            extra = {
                x["content"]: x.get("id")
                for x in added
                if isinstance(x, dict) and isinstance(x.get("content"), str)
            }
            return path, tokens | extra
        raise UserError(f"{path} is damaged (it has no vocabulary); fetch it again")
    if os.path.lexists(vocabulary) and os.path.lexists(folder / "merges.txt"):
        added = folder / "added_tokens.json"
        more = _object(added) if os.path.lexists(added) else {}
        return vocabulary, _object(vocabulary) | more
    return None


def _object(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged (not an object); fetch it again")
    return values
