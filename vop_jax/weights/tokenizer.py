"""The tokenizer of a backbone: its own files, or CLIP's packaged vocabulary."""

from pathlib import Path

from data_pipelines.console.errors import UserError
from data_pipelines.text.tokenizer import Tokenizer
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.weights.packaged_tokenizer import CLIP_VOCABULARY, packaged_encode


def load_tokenizer(
    folder: Path, size: ClipSize, length: int | None = None
) -> Tokenizer:
    """The tokenizer of a backbone folder, or OpenAI's if it has none.

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
    length = length or size.context_length
    # Imported late: a CLIP without tokenizer files does not need it.
    from vop_jax.weights.tokenizer_files import read_tokenizer

    start, end = size.eos_id - 1, size.eos_id
    file = read_tokenizer(folder, size.vocabulary, (start, end))
    unknown = None
    if file is not None:
        if file.model.unk_token is not None:
            unknown = file.token_to_id(file.model.unk_token)

        def encode(text: str) -> list[int]:
            return file.encode(text, add_special_tokens=False).ids

    elif size.vocabulary != CLIP_VOCABULARY:
        raise UserError(
            f"{folder} has no tokenizer.json, and its vocabulary of {size.vocabulary} "
            f"tokens is not CLIP's of {CLIP_VOCABULARY}; add the file"
        )
    else:
        encode = packaged_encode(folder)
    return Tokenizer(
        encode, start_id=start, end_id=end, length=length, unknown_id=unknown
    )
