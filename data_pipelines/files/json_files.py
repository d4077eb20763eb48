"""Untrusted JSON: read within limits, and validated against a schema.

A schema is a `TypedDict` whose fields carry their ranges (`annotated_types`). Pydantic
validates strictly: `"false"` is not false and 8.0 is not 8. Keys that the schema does
not have are dropped.
"""

import codecs
import functools
import json
import math
import os
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from data_pipelines.console.errors import UserError
from data_pipelines.files.regular_files import content_of, open_regular
from data_pipelines.files.stand_ins import check_content

if TYPE_CHECKING:
    from etils import epath

# Largest size in bytes of a configuration file, and of an annotation file (the largest
# published ones have some tens of MB).
LARGEST = 16 << 20
LARGEST_ANNOTATIONS = 1 << 30
# Deepest nesting of objects and lists. The deepest file of a known kind has 8.
_DEPTH = 64
# Fewest bytes per object or list, on average, of any known kind of file: empty ones
# take 40 times their size in memory. Small files may have more of them.
_BYTES_A_CONTAINER, _FREE_CONTAINERS = 8, 100_000
# Integers must fit into a signed 64-bit word.
_LARGEST_INTEGER = 2**63 - 1
_MOST_DIGITS = 19
_CONTAINERS = frozenset((dict, list))
_SHOWN = 40

T = TypeVar("T")


def read_bytes(path: "Path | epath.Path", largest: int = LARGEST) -> bytes:
    """Reads a regular file.

    Args:
        path: local or in an object store.
        largest: the most bytes it may have.

    Raises:
        OSError: missing, larger, or not a regular file. It never waits for a pipe or
            a device.
    """
    if "://" in str(path):
        # Imported late, for a fast start of commands that read local files alone.
        from etils import epath

        path = epath.Path(path)
        _check_length(path.stat().length, largest)
        return path.read_bytes()
    with open_regular(path) as file:
        _check_length(os.fstat(file.fileno()).st_size, largest)
        # Some file systems report no size, and a file may grow.
        content = content_of(file, largest + 1)
    _check_length(len(content), largest)
    return content


def _check_length(length: int, largest: int) -> None:
    if length > largest:
        raise OSError(0, f"it has more than {largest >> 20} MiB")


def read_utf8(
    path: "Path | epath.Path",
    largest: int = LARGEST,
    advice: str = "",
    *,
    may_be_empty: bool = True,
) -> str:
    """Reads a UTF-8 file, with or without a byte order mark.

    Args:
        path: local or in an object store.
        largest: the most bytes it may have.
        advice: what to do if it cannot be read, for the error.
        may_be_empty: whether an empty file is accepted.

    Raises:
        UserError: missing, not a regular file, too large, in another encoding, or
            another kind of file under this name (see `stand_ins`).
    """
    try:
        # The codec utf-8-sig would copy the text once more.
        content = read_bytes(path, largest)
        check_content(path, content, may_be_empty=may_be_empty)
        return content.removeprefix(codecs.BOM_UTF8).decode()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        advice = f"; {advice}" if advice else ""
        raise UserError(f"{path} cannot be read ({reason}){advice}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8"
        ) from None


def read_json(
    path: "Path | epath.Path",
    largest: int = LARGEST,
    advice: str = "",
    finite: bool = True,
    *,
    rounded: bool = False,
) -> Any:
    """Reads a JSON file; the arguments are those of `read_utf8` and `parse_json`.

    Raises:
        UserError: it cannot be read, or is not JSON within the limits.
    """
    text = read_utf8(path, largest, advice, may_be_empty=False)
    return parse_json(text, str(path), finite, rounded=rounded)


def parse_json(
    text: str, where: str, finite: bool = True, *, rounded: bool = False
) -> Any:
    """Parses a JSON text.

    Args:
        text: of any origin.
        where: names the text in an error.
        finite: whether numbers that are not finite are refused. Python writes them,
            so files of this project may hold them.
        rounded: whether an integer of more than 64 bits becomes a float.

    Raises:
        UserError: it is damaged, nested too deeply, an object names a key twice, or a
            number is not finite or longer than 64 bits.
    """
    containers = text.count("{") + text.count("[")
    if containers > _FREE_CONTAINERS + len(text) // _BYTES_A_CONTAINER:
        raise UserError(f"{where} is hardly more than brackets; is it the right file?")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # The standard library would silently keep the last one.
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    raise UserError(f"{where}: {shown(key, repr)} appears twice")
                seen.add(key)
        return found

    def integer(digits: str) -> int | float:
        if len(digits) > _MOST_DIGITS + 1 or abs(int(digits)) > _LARGEST_INTEGER:
            if rounded:
                return real(digits)
            raise _out_of_range(where, digits)
        return int(digits)

    def real(digits: str) -> float:
        value = float(digits)
        if finite and not math.isfinite(value):
            raise _out_of_range(where, digits)
        return value

    def constant(name: str) -> Any:
        return real(name)

    try:
        value = json.loads(
            text,
            object_pairs_hook=once,
            parse_int=integer,
            parse_float=real,
            parse_constant=constant,
        )
        _check_depth(value)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where} is not JSON ({error.msg}, line {error.lineno} column "
            f"{error.colno}); is it cut off?"
        ) from None
    except RecursionError:
        raise UserError(f"{where} is nested too deeply") from None
    if "\\u" in text and ("\\ud" in text or "\\uD" in text):
        _check_surrogates(value, where)
    return value


def _out_of_range(where: str, digits: str) -> UserError:
    return UserError(f"{where}: the number {shown(digits, str)} is out of range")


def _check_depth(value: Any) -> None:
    level = [value] if type(value) in _CONTAINERS else []
    # A loop over levels takes a tenth of the parser's time.
    for _ in range(_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) in _CONTAINERS
        ]
        if not level:
            return
    raise RecursionError


def _check_surrogates(value: Any, where: str) -> None:
    """Refuses lone surrogates, which JSON can spell but UTF-8 cannot encode."""
    for text in _strings(value):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{where}: {shown(text, ascii)} holds half of a surrogate pair; write "
                "the complete character"
            ) from None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def shown(value: Any, form: typing.Callable[[str], str] = json.dumps) -> str:
    """A JSON value for a message, cut to a few words."""
    if isinstance(value, dict | list):
        small = len(value) <= 4 and not any(
            isinstance(x, dict | list)
            for x in (value.values() if isinstance(value, dict) else value)
        )
        if small and len(text := json.dumps(value)) <= _SHOWN:
            return text
        kind = "an object" if isinstance(value, dict) else "a list"
        return f"{kind} of {len(value)}"
    if isinstance(value, str):
        if len(value) <= _SHOWN:
            return form(value)
        return form(value[:_SHOWN]) + "..."
    return json.dumps(value, default=lambda x: type(x).__name__)


def read_described(
    path: "Path | epath.Path",
    description: type[T] | Any,
    largest: int = LARGEST,
    advice: str = "",
) -> T:
    """Reads a JSON file and validates it against a schema.

    Raises:
        UserError: it cannot be read, is not JSON, or does not fit the schema.
    """
    return described(read_json(path, largest, advice), description, str(path))


def described(value: Any, description: type[T] | Any, where: str) -> T:
    """Validates a JSON value against a schema.

    Args:
        value: as `parse_json` returns it.
        description: a type of built-in types and `TypedDict`s.
        where: names the value in an error.

    Returns:
        The value, without keys that the schema does not have.

    Raises:
        UserError: it does not fit the schema; the line names the first such place.
    """
    # Imported late, for a fast start of commands that read no JSON.
    from pydantic import ValidationError

    try:
        return _adapter(description).validate_python(value, strict=True)
    except ValidationError as error:
        found: Any = error.errors(include_url=False)[0]
        raise UserError(_line(found, where)) from None


@functools.cache
def _adapter(description: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(description)


class StopAtFirst:
    """Annotates a list whose validation stops at the first wrong item.

    A million mistakes would otherwise be a million errors in memory.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Pydantic's own hook for what annotates a type."""
        return handler(source) | {"fail_fast": True}


class Matches:
    """Annotates a string that must match a regular expression.

    Args:
        pattern: without lookaround; of ASCII, since a counted class of all Unicode
            letters is too large to compile.
    """

    def __init__(self, pattern: str):
        self._pattern = pattern

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Pydantic's own hook for what annotates a type."""
        return handler(source) | {"pattern": self._pattern}


class MustBe:
    """Annotates a value of several possible types, to say what it must be.

    Pydantic's own errors of them name Python's types.

    Args:
        what: such as "a string or a whole number".
    """

    def __init__(self, what: str):
        self._what = what

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Pydantic's own hook for what annotates a type."""
        said = {"custom_error_type": self._what, "custom_error_message": self._what}
        return handler(source) | said


# Pydantic's type of an error -> what the value must be.
_MUST_BE = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "none_required": "null",
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "string_too_long": "at most {max_length} characters long",
    "string_too_short": "at least {min_length} characters long",
    "string_pattern_mismatch": "of the form {pattern}",
    "too_long": "at most {max_length} items long",
    "too_short": "at least {min_length} items long",
}


def _line(error: dict[str, Any], where: str) -> str:
    """One of pydantic's errors as one line of text."""
    keys = error["loc"]
    if error["type"] == "missing":
        return f"{_place(where, keys[:-1])} lacks the key {shown(keys[-1], repr)}"
    kind: str = error["type"]
    must_be = _MUST_BE.get(kind, kind).format_map(error.get("ctx", {}))
    return f"{_place(where, keys)} is {shown(error['input'])}; it must be {must_be}"


def _place(where: str, keys: typing.Sequence[str | int]) -> str:
    """Where in a file a value is: `config.json: text_config.vocab_size`."""
    path = ""
    for key in keys:
        if isinstance(key, int):
            path += f"[{key}]"
        elif key.isidentifier() and len(key) <= _SHOWN:
            path += f".{key}" if path else key
        else:
            path += f"[{shown(key, repr)}]"
    if not path or (path[0] == "[" and ": " in where):
        return where + path
    # `where` may be a place in the file already.
    return f"{where}{'.' if ': ' in where else ': '}{path}"
