"""Text of unknown content, made safe to print."""


def printable(text: str) -> str:
    """The text with escapes for line ends and the codes that control a terminal."""
    return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)
