"""Caption text: how it is cleaned, and whether it exceeds a number of tokens."""

import dataclasses
import html
import string
from collections.abc import Sequence

import ftfy

# In a caption these would become control tokens: the text embedding is read at the
# first EOT, so one in the middle would cut the caption.
_CONTROL = ("<|startoftext|>", "<|endoftext|>")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """What is done to a text before it is tokenized, in this order.

    Attributes:
        mended: broken Unicode is mended and HTML entities are replaced.
        underscores: `_` becomes a space.
        punctuation: ASCII punctuation is removed.
        lower: letters become lower-case.
        spaces: white space is one space between words.
    """

    mended: bool = False
    underscores: bool = False
    punctuation: bool = False
    lower: bool = False
    spaces: bool = False

    def __call__(self, text: str) -> str:
        """The cleaned text."""
        if self.mended:
            text = html.unescape(html.unescape(ftfy.fix_text(text)))
        if self.underscores:
            text = text.replace("_", " ")
        if self.punctuation:
            text = text.translate(_PUNCTUATION)
        if self.lower:
            text = text.lower()
        return " ".join(text.split()) if self.spaces else text


# By name: `clip`, `whitespace` and `canonicalize` as OpenAI's and open_clip's
# tokenizers clean, `siglip` and `siglip2` as those of transformers, which mend nothing.
CLEANINGS = {
    "clip": Cleaning(mended=True, lower=True, spaces=True),
    "whitespace": Cleaning(mended=True, spaces=True),
    "canonicalize": Cleaning(
        mended=True, underscores=True, punctuation=True, lower=True, spaces=True
    ),
    "siglip": Cleaning(punctuation=True, lower=True, spaces=True),
    "siglip2": Cleaning(lower=True),
    "none": Cleaning(),
}


def clean(
    text: str,
    cleaning: Cleaning = CLEANINGS["clip"],
    control: Sequence[str] = _CONTROL,
) -> str:
    """Cleans a text, and removes control tokens from it.

    Args:
        text: a caption or a query.
        cleaning: what is done to it.
        control: the texts of the control tokens.
    """
    text = cleaning(text)
    # After lowercasing, which can form one; the space keeps two halves from joining.
    found = [token for token in control if token in text]
    for token in found:
        text = text.replace(token, " ")
    return " ".join(text.split()) if found and cleaning.spaces else text


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
