"""Paths in JSON and tables, where a name may be any bytes and text may not.

One rule for every output: what is not UTF-8 is U+FFFD in the text, which is for
reading; the bytes stand beside it, under the same name with `_bytes`. A path without
this second entry is exactly its text.
"""

import base64
import os
import re
from typing import Any

# In the place of each such byte, in a path as Python holds it.
_SURROGATE = re.compile("[\ud800-\udfff]")


def text_of(path: str) -> str:
    """The path as UTF-8 can carry it."""
    return _SURROGATE.sub("\ufffd", path)


def bytes_of(path: str) -> bytes | None:
    """The bytes of a path that is not UTF-8; None if its text says all."""
    if not _SURROGATE.search(path):
        return None
    try:
        return os.fsencode(path)
    # Of a query that is no path.
    except UnicodeEncodeError:
        return None


def with_bytes(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a JSON object, with the bytes of paths beside them in base64.

    Args:
        values: numbers, texts, and lists of texts, of which those without bytes are
            null in the list of bytes.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, str):
            found[name] = text_of(value)
            if (code := _code(value)) is not None:
                found[f"{name}_bytes"] = code
        elif isinstance(value, list | tuple) and all(isinstance(x, str) for x in value):
            found[name] = [text_of(x) for x in value]
            codes = [_code(x) for x in value]
            if any(code is not None for code in codes):
                found[f"{name}_bytes"] = codes
        else:
            found[name] = value
    return found


def _code(path: str) -> str | None:
    found = bytes_of(path)
    return None if found is None else base64.b64encode(found).decode()
