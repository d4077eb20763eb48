"""What annotation files say, and how they are read: strictly, whatever wrote them."""

import collections
import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.errors import UserError


class Video(NamedTuple):
    """One annotated video.

    Attributes:
        video_id: unique within the split.
        files: the stems its file may have, the likeliest first, or with
            `Annotations.by_path` its path alone.
        captions: all its captions, none of them empty.
        extras: anything else worth keeping, JSON values.
    """

    video_id: str
    files: tuple[str, ...]
    captions: tuple[str, ...]
    extras: Mapping[str, Any] = {}


@dataclasses.dataclass
class Annotations:
    """What a data set's annotation files say.

    Attributes:
        splits: the videos of each split, in the files' order.
        files: what was read.
        by_path: whether videos are named by their path instead of their stem.
        without_captions: ids of each split that have no caption, and so are left out.
        unlisted: ids that have captions of the split but are not in its list.
        repeated: ids that a split lists more than once; each is used once.
        empty_captions: captions of each split without a word, which are left out.
    """

    splits: dict[str, list[Video]]
    files: list[Path]
    by_path: bool = False
    without_captions: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    unlisted: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    repeated: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    empty_captions: dict[str, int] = dataclasses.field(default_factory=dict)

    def add_split(
        self,
        name: str,
        ids: Sequence[str],
        captions: Mapping[str, Sequence[str]],
        *,
        files: Mapping[str, tuple[str, ...]] | None = None,
        own_captions: bool = False,
    ) -> None:
        """Adds a split: the ids that have captions, in order, each once.

        Args:
            name: the split's.
            ids: of its videos.
            captions: of any videos.
            files: what each id's file may be called; as the id by default.
            own_captions: whether the captions are meant for this split alone.

        Raises:
            UserError: nothing is left of it.
        """
        times = collections.Counter(ids)
        self.repeated[name] = [video for video, count in times.items() if count > 1]
        self.unlisted[name] = [x for x in captions if own_captions and x not in times]
        self.empty_captions[name], self.without_captions[name] = 0, []
        videos = self.splits.setdefault(name, [])
        for video_id in times:
            given = captions.get(video_id, ())
            said = tuple(x.strip() for x in given if x.strip())
            self.empty_captions[name] += len(given) - len(said)
            if said:
                named = files[video_id] if files else (video_id,)
                videos.append(Video(video_id, named, said))
            else:
                self.without_captions[name].append(video_id)
        if not videos:
            raise UserError(
                f"the {name} split has no video with a caption (read: "
                f"{', '.join(str(file) for file in self.files)})"
            )

    def read(self, path: Path) -> Path:
        """Notes that a file is read."""
        self.files.append(path)
        return path


def read_text(path: Path) -> str:
    """A UTF-8 file with any line ends, with or without a byte order mark.

    Raises:
        UserError: missing, a folder, or another encoding.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give its folder as "
            "--annotations"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8"
        ) from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank, without its line end."""
    # Not splitlines: a caption may hold one of the separators that Unicode knows.
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line


def read_list(path: Path) -> list[str]:
    """The ids of a file with one on each line."""
    return [line.strip() for _, line in read_lines(path)]


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict]]:
    """Line number and values of each row of a CSV with a header.

    Args:
        path: the file.
        columns: those that must be there.

    Raises:
        UserError: no header with these columns, or a row of another length.
    """
    # newline="" as csv wants it: a quoted field may hold a line end.
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        absent = [name for name in columns if name not in header]
        if absent:
            raise UserError(
                f"{path}: the header lacks {', '.join(absent)}; it is "
                f"{','.join(header) or 'empty'}"
            )
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{path}, line {rows.line_num}: {len(row)} fields instead of "
                    f"{len(header)}; put a field that holds a comma in quotes"
                )
            yield rows.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: {error}") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        UserError: it is damaged, or an object names a key twice.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> Any:
    """As `read_json`, of a text; `where` is told where something is wrong."""

    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # The standard library would keep the last one without a word.
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            double = next(key for key in keys if keys.count(key) > 1)
            raise UserError(f"{where}: {double!r} is there twice; remove one")
        return found

    try:
        return json.loads(text, object_pairs_hook=checked)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where} is no JSON ({error.msg}, line {error.lineno} column "
            f"{error.colno}); is it cut off?"
        ) from None
    except RecursionError:
        raise UserError(f"{where} is nested too deeply to be annotations") from None


_NAMES = {dict: "an object", list: "a list", str: "a string"}


def expect(value: Any, kind: type, where: str) -> Any:
    """The value, if it is of that kind.

    Raises:
        UserError: it is not, or it is a string that no UTF-8 file can hold.
    """
    if not isinstance(value, kind):
        shown = json.dumps(value, default=str)
        shown = shown if len(shown) <= 40 else shown[:40] + "..."
        raise UserError(f"{where} is {shown}; it must be {_NAMES[kind]}")
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{where} holds half of a surrogate pair; write the character whole"
            ) from None
    return value


def strings(value: Any, where: str) -> list[str]:
    """The value, if it is a list of strings."""
    items = expect(value, list, where)
    return [expect(item, str, f"{where}[{i}]") for i, item in enumerate(items)]


def fields(value: Any, names: Iterable[str], where: str) -> list[Any]:
    """The values of an object's keys.

    Raises:
        UserError: it is no object, or a key is missing.
    """
    found = expect(value, dict, where)
    for name in names:
        if name not in found:
            raise UserError(f"{where} lacks the key {name!r}")
    return [found[name] for name in names]


def read_caption_lists(path: Path) -> dict[str, list[str]]:
    """A JSON object of ids, each with the list of its captions."""
    content = expect(read_json(path), dict, str(path))
    return {
        video_id: strings(captions, f"{path}: {video_id!r}")
        for video_id, captions in content.items()
    }
