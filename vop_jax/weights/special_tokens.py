"""The tokens that start, end and fill a caption, from a model's own tokenizer.

Most text towers read their embedding at the end token. `config.json` states its id,
except where it says what its family (`families.Texts`) does not mean by it.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.console.errors import UserError
from data_pipelines.files.json_files import read_json
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.runtime.files import write_atomically
from vop_jax.weights.families import FAMILIES, Texts
from vop_jax.weights.tokenizer_files import LARGEST_TOKENIZER

CONFIG = "tokenizer_config.json"
_TOKENIZER, _FILLING = "tokenizer.json", "pad_token"


class Ends(NamedTuple):
    """The ids of the tokens around a caption.

    Attributes:
        start: before it; None if there is none.
        end: behind it.
        filling: in the rest of the context, where the text tower sees it.
    """

    start: int | None
    end: int
    filling: int = 0


def caption_ends(
    folder: Path | None, size: ClipSize, stated: int | None, where: str
) -> Ends:
    """The special tokens of a model.

    Args:
        folder: where tokenizer files may be, or None.
        size: its family, and the number of token ids of the text tower.
        stated: the `eos_token_id` of its configuration, None if there is none.
        where: names the model in an error.

    Raises:
        UserError: the end token is not stated, the files disagree, or the ids are not
            of such a model.
    """
    texts, vocabulary = FAMILIES[size.family].texts, size.vocabulary
    # A family with a usual end token has none in its config.json that means it.
    known = None if stated == texts.unstated or texts.end is not None else stated
    ends = folder_ends(folder, texts) if folder else None
    if ends is None and texts.clips and vocabulary == ClipSize.vocabulary:
        # Without tokenizer files it gets OpenAI's tokenizer.
        ends = Ends(ClipSize.eos_id - 1, ClipSize.eos_id)
    if ends is None:
        end = texts.end if known is None else known
        if end is None:
            raise UserError(
                f"{where} does not say which token ends a caption: its vocabulary of "
                f"{vocabulary:,} tokens is not CLIP's of {ClipSize.vocabulary:,}, and "
                "there is no tokenizer.json beside it; add the model's own"
            )
        return Ends(end - 1 if texts.consecutive else None, end)
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
    if texts.consecutive and ends.start != ends.end - 1:
        raise UserError(
            f"{where}: its tokenizer starts a caption with token {ends.start} and ends "
            f"it with {ends.end}; only CLIP's own order, one after the other, is "
            "supported"
        )
    return ends


def folder_ends(folder: Path, texts: Texts) -> Ends | None:
    """The special tokens of a folder's own tokenizer; None if it has none.

    Raises:
        UserError: a file is damaged, or lacks these tokens.
    """
    found = _token_ids(folder)
    if found is None:
        return None
    file, ids = found
    names = special_names(folder, texts)
    # Only a tower that reads behind the end needs to know what is there.
    needed = [key for key in names if key != _FILLING or texts.end is not None]
    for name in (names[key] for key in needed):
        if type(ids.get(name)) is not int or ids[name] < 0:
            raise UserError(f"{file} has no token {name[:60]!r}, as its family has")
    start = ids[names["bos_token"]] if texts.starts else None
    filling = ids[names[_FILLING]] if _FILLING in needed else 0
    return Ends(start, ids[names["eos_token"]], filling)


def special_names(folder: Path, texts: Texts) -> dict[str, str]:
    """The texts of a folder's special tokens, by the keys of `Texts.special`."""
    names = dict(texts.special)
    # The later file takes precedence, as in the library that writes them.
    for other in ("special_tokens_map.json", CONFIG):
        if os.path.lexists(folder / other):
            names |= _named(_object(folder / other), names)
    return names


def _named(values: dict[str, Any], keys: Mapping[str, str]) -> dict[str, str]:
    """The special tokens that a file names; each a string or an object."""
    found = {}
    for key in keys:
        value = values.get(key)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            found[key] = value
    return found


def tokenizer_settings(folder: Path) -> dict[str, Any]:
    """The content of a folder's `tokenizer_config.json`; empty if there is none."""
    return _object(folder / CONFIG) if os.path.lexists(folder / CONFIG) else {}


def write_tokenizer_class(folder: Path, size: ClipSize) -> None:
    """Writes the `tokenizer_config.json` that a folder lacks, unless CLIP's is right.

    Without a class named there, transformers reads any tokenizer of a CLIP as OpenAI's,
    and gives a vocabulary of words the wrong ids.

    Raises:
        UserError: the folder's `tokenizer.json` is damaged, or lacks special tokens.
    """
    texts = FAMILIES[size.family].texts
    file = folder / _TOKENIZER
    clips = texts.clips and size.vocabulary == ClipSize.vocabulary
    if clips or os.path.lexists(folder / CONFIG) or not os.path.lexists(file):
        return
    model = _object(file).get("model")
    if isinstance(model, dict) and model.get("end_of_word_suffix") == "</w>":
        return
    ends, found = folder_ends(folder, texts), _token_ids(folder)
    if ends is None or found is None:
        return
    # What fills a caption here fills it there, though no text tower may read it.
    filling = {x: text for text, x in found[1].items()}.get(ends.filling)
    content = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special_names(folder, texts),
        **({} if filling is None else {_FILLING: filling}),
        "model_max_length": size.context_length,
    }
    write_atomically(folder / CONFIG, json.dumps(content, indent=2) + "\n")


def kind_of_tokenizer(folder: Path) -> str | None:
    """The type of model in a folder's `tokenizer.json`; None if that says none."""
    path = folder / _TOKENIZER
    if not os.path.lexists(path):
        return None
    model = _object(path).get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    return kind if isinstance(kind, str) else None


def _token_ids(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The file with the vocabulary, and the token ids."""
    path, vocabulary = folder / _TOKENIZER, folder / "vocab.json"
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
    # transformers writes 10^30 for a length that has no limit.
    values = read_json(path, LARGEST_TOKENIZER, rounded=True)
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged (not an object); fetch it again")
    return values
