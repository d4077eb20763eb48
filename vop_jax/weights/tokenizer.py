"""The tokenizer of a backbone: its own files, or CLIP's packaged vocabulary."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.console.errors import UserError
from data_pipelines.console.names import pick
from data_pipelines.text.captions import CLEANINGS
from data_pipelines.text.tokenizer import Tokenizer
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.weights.families import FAMILIES, Texts
from vop_jax.weights.packaged_tokenizer import CLIP_VOCABULARY, packaged_encode
from vop_jax.weights.special_tokens import (
    Ends,
    caption_ends,
    special_names,
    tokenizer_settings,
)

# The key of `tokenizer_config.json` for a cleaning of another name than the family's.
CLEANING = "clean"
_SIDES = {None: False, "right": False, "left": True}


def load_tokenizer(
    folder: Path, size: ClipSize, length: int | None = None
) -> Tokenizer:
    """The tokenizer of a backbone folder, or OpenAI's if it has none.

    A text tower that reads the last position of the context sees what fills it, so its
    captions are filled with the tokenizer's own padding; those of others with zeros.

    Args:
        folder: the backbone's; its `tokenizer.json` is read, or its `vocab.json` and
            `merges.txt`.
        size: of the backbone.
        length: the most tokens of a caption; by default the entire context.

    Raises:
        UserError: the files are damaged, or there are none and the backbone's
            vocabulary is not CLIP's. Where that is not installed, the tokenizer raises
            it for the first text.
    """
    # Imported late: a CLIP without tokenizer files does not need it.
    from vop_jax.weights.tokenizer_files import read_tokenizer

    texts = FAMILIES[size.family].texts
    ends = Ends(size.eos_id - 1, size.eos_id)
    if not texts.consecutive:
        ends = caption_ends(folder, size, size.eos_id, str(folder))
    control = {x for x in (ends.start, ends.end) if x is not None}
    file = read_tokenizer(folder, size.vocabulary, control)
    unknown = None
    if file is not None:
        unknown, encode = file.unknown, _encoder(file.tokenizer, folder)
    elif not (texts.clips and size.vocabulary == CLIP_VOCABULARY):
        raise UserError(
            f"{folder} has no tokenizer.json, and its vocabulary of {size.vocabulary} "
            f"tokens is not CLIP's of {CLIP_VOCABULARY}; add the file"
        )
    else:
        encode = packaged_encode(folder)
    settings = tokenizer_settings(folder)
    side = settings.get("padding_side")
    return Tokenizer(
        encode,
        start_id=ends.start,
        end_id=ends.end,
        length=length or size.context_length,
        unknown_id=unknown,
        pad_id=ends.filling if size.full_captions else 0,
        # Elsewhere nothing behind the end token is read.
        pad_left=size.full_captions and _SIDES.get(side, False),
        cleaning=_cleaning(settings, texts),
        control=tuple(special_names(folder, texts).values()),
    )


def _cleaning(settings: dict[str, Any], texts: Texts) -> Sequence[str]:
    """How texts are cleaned: as the folder says, or as the family does.

    Raises:
        UserError: the folder names a cleaning that is not known.
    """
    name = settings.get(CLEANING, texts.cleaning)
    steps = pick(CLEANINGS, str(name), "the cleaning in tokenizer_config.json")
    kept = settings.get("do_lower_case") is False
    return [step for step in steps if not (kept and step.startswith("lower"))]


def _encoder(tokenizer: Any, folder: Path) -> Callable[[str], Sequence[int]]:
    """The function from a text to ids."""

    def encode(text: str) -> list[int]:
        try:
            return tokenizer.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            # A Rust panic is not an `Exception`, and its class has no public name.
            if type(error).__name__ != "PanicException":
                raise
            raise UserError(
                f"{folder}: its tokenizer fails at a text ({error}); fetch it again"
            ) from None

    return encode
