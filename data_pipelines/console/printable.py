"""Text of unknown content, made safe to print."""

import os
import shlex
import sys


def printable(text: str) -> str:
    """The text with escapes for line ends and the codes that control a terminal."""
    return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)


def shell_word(text: str) -> str:
    """The text as one word of a command line, to be copied into a shell.

    What `printable` escapes is written as bash and zsh read it, so that the command
    that is copied means the text as it was.
    """
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_in_quotes, text))}'"


def this_python() -> str:
    """The Python that runs, as a word of a command line in the current folder."""
    path, here = sys.executable or "python", os.path.join(os.getcwd(), "")
    return shell_word(path.removeprefix(here))


def _in_quotes(letter: str) -> str:
    if letter.isprintable():
        return f"\\{letter}" if letter in "\\'" else letter
    # Bytes, since the meaning of \u depends on the shell's locale. Octal escapes have
    # three digits at most, so that a digit that follows is not read as part of them.
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(letter))
