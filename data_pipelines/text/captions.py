"""Caption text: cleaning, and whether it exceeds a number of tokens."""

import html
from collections.abc import Sequence

import ftfy

# In a caption these would become control tokens: the text embedding is read at the
# first EOT, so one in the middle would cut the caption.
_CONTROL = ("<|startoftext|>", "<|endoftext|>")


def clean(text: str) -> str:
    """OpenAI's cleaning: broken Unicode fixed, HTML entities, white space, case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    text = " ".join(text.split()).lower()
    # After lowercasing, which can form one; the space keeps two halves from joining.
    for control in _CONTROL:
        text = text.replace(control, " ")
    return " ".join(text.split())


def too_long(captions: Sequence[str], tokens: int) -> list[bool] | None:
    """Whether each caption has more than `tokens` tokens, start and end included.

    None where that cannot be told: `instant_clip_tokenizer` is not installed, and a
    caption is long enough to be asked about.
    """
    words = tokens - 2
    # A token covers at least one byte, so most captions need no tokenization.
    asked = [len(caption.encode()) > words for caption in captions]
    if not any(asked):
        return asked
    try:
        import instant_clip_tokenizer
    except ImportError:
        return None
    encode = instant_clip_tokenizer.Tokenizer().encode  # pyright: ignore
    return [
        long and len(encode(clean(caption))) > words
        for caption, long in zip(captions, asked, strict=True)
    ]
