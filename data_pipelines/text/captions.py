"""Caption text: how it is cleaned, and whether it exceeds a number of tokens."""

import html
import string
from collections.abc import Callable, Sequence

import ftfy

# In a caption these would become control tokens: the text embedding is read at the
# first EOT, so one in the middle would cut the caption.
_CONTROL = ("<|startoftext|>", "<|endoftext|>")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


# What may be done to a text before it is tokenized, by name.
STEPS: dict[str, Callable[[str], str]] = {
    # Broken Unicode is mended and HTML entities are replaced.
    "mend": lambda text: html.unescape(html.unescape(ftfy.fix_text(text))),
    "underscores": lambda text: text.replace("_", " "),
    # Of ASCII.
    "punctuation": lambda text: text.translate(_PUNCTUATION),
    "lower": str.lower,
    # Letter by letter, whatever is beside it: no final sigma.
    "lower letters": lambda text: "".join(map(str.lower, text)),
    "spaces": lambda text: " ".join(text.split()),
}
# The steps by the name of a tokenizer, in their order: `clip`, `whitespace` and
# `canonicalize` as OpenAI's and open_clip's tokenizers clean, `siglip` and `siglip2` as
# those of transformers, which mend nothing.
CLEANINGS = {
    "clip": ("mend", "spaces", "lower"),
    "whitespace": ("mend", "spaces"),
    "canonicalize": ("mend", "underscores", "punctuation", "lower", "spaces"),
    "siglip": ("lower", "punctuation", "spaces"),
    "siglip2": ("lower letters",),
    "none": (),
}


def clean(
    text: str,
    steps: Sequence[str] = CLEANINGS["clip"],
    control: Sequence[str] = _CONTROL,
) -> str:
    """Cleans a text, and removes control tokens from it.

    Args:
        text: a caption or a query.
        steps: keys of `STEPS`, in their order.
        control: the texts of the control tokens.
    """
    for step in steps:
        text = STEPS[step](text)
    # After lowercasing, which can form one; the space keeps two halves from joining.
    found = [token for token in control if token in text]
    for token in found:
        text = text.replace(token, " ")
    return STEPS["spaces"](text) if found and "spaces" in steps else text


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
