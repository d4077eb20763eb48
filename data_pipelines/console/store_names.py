"""Names in object stores: which buckets can be, and which keys have a place in folders.

An object may have any key of up to 1,024 bytes. Only those are used that are relative
paths on every machine as well, since clients rewrite others (`a//b` to `a/b`).
"""

import re

from data_pipelines.console.errors import UserError
from data_pipelines.console.names import shortened

# Amazon's and Google's rules together, without those on length and on the last letter.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,221}")
# Codes of terminals, line ends, and halves of surrogate pairs, which UTF-8 lacks.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# Most bytes of a file's name, as Linux has it.
_LONGEST = 255


def is_plain(path: str) -> bool:
    """Whether a relative path names the same file in a store and in a folder.

    None of its parts is empty, `.` or `..`, has control characters or more than 255
    bytes.
    """
    return not _CONTROL.search(path) and all(
        part not in ("", ".", "..") and len(part.encode()) <= _LONGEST
        for part in path.split("/")
    )


def check_store(text: str, name: str = "") -> None:
    """Checks the bucket and the path of an address.

    Args:
        text: such as `gs://bucket/folder`; slashes at its end make no difference.
        name: of the flag or field, if the line should name it.

    Raises:
        UserError: one of them cannot be.
    """
    start = f"{f'{name}=' if name else ''}{shortened(text)}"
    scheme, _, rest = text.partition("://")
    bucket, _, path = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise UserError(
            f"{start}: the bucket's name is malformed; pass {scheme}://BUCKET/PATH, "
            "BUCKET of letters, digits, dots, - and _"
        )
    path = path.rstrip("/")
    if path and not is_plain(path):
        raise UserError(
            f"{start}: a part of the path is empty, . or .., has control characters or "
            f"more than {_LONGEST} bytes; pass another path"
        )
