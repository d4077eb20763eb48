"""Captions as text: cleaning, and how many tokens they take."""

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


def token_counts(captions: Sequence[str]) -> list[int]:
    """How many of CLIP's tokens each caption takes, start and end included."""
    import instant_clip_tokenizer

    tokenizer = instant_clip_tokenizer.Tokenizer()  # pyright: ignore
    return [len(tokenizer.encode(clean(caption))) + 2 for caption in captions]
