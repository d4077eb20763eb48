"""Which entries a record of an index has."""

from collections.abc import Iterable
from typing import Any

from data_pipelines.files.json_files import shown


def check_names(
    name: str, record: Any, needed: Iterable[str], others: Iterable[str] = ()
) -> None:
    """Checks that a record is an object of certain entries.

    Args:
        name: of the record.
        record: its value, any JSON.
        needed: the entries that it must have.
        others: those that it may have.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(record, dict):
        raise TypeError(f"{name} is not an object")
    needed = [*needed]
    for key in needed:
        if key not in record:
            raise TypeError(f"{name} lacks {key}")
    for key in record:
        if key not in (*needed, *others):
            raise TypeError(f"{name} has the entry {shown(key, ascii)}")
