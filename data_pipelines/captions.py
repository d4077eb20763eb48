"""Captions as text: cleaning, and whether they are too long."""

import html
from collections.abc import Sequence

import ftfy

# In a caption these would become control tokens: the first EOT is read out, so one in
# the middle would cut the caption.
_CONTROL = ("<|startoftext|>", "<|endoftext|>")


def clean(text: str) -> str:
    """OpenAI's cleaning: broken Unicode mended, HTML entities, white space, case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    text = " ".join(text.split()).lower()
    # Last, for lower case can make one; the space keeps two halves from making one.
    for control in _CONTROL:
        text = text.replace(control, " ")
    return " ".join(text.split())


def too_long(captions: Sequence[str], tokens: int) -> list[bool]:
    """Whether each caption takes more of CLIP's tokens, start and end included."""
    import instant_clip_tokenizer

    encode = instant_clip_tokenizer.Tokenizer().encode  # pyright: ignore
    words = tokens - 2
    # A token stands for a byte at least, so most captions need not be looked at.
    return [
        len(caption.encode()) > words and len(encode(clean(caption))) > words
        for caption in captions
    ]
