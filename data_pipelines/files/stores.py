"""Folders of this machine and of object stores, gs:// and s3://, by pyarrow alike.

    store = Store("s3://bucket/data")
    store.write("a/b.json", content)

A file of an object store appears when it is complete; on this machine it is written
aside and renamed. Object stores are given three tries and half a minute for a request.
"""

import contextlib
import datetime
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data_pipelines.console.arguments import is_store
from data_pipelines.console.errors import UserError
from data_pipelines.console.printable import printable
from data_pipelines.console.store_names import is_plain
from data_pipelines.files.replacing import replacing_file
from data_pipelines.files.store_errors import using

if TYPE_CHECKING:
    from etils import epath

# Names of the variables that clients of S3 know for a server other than Amazon's, and
# those of Google's for one other than Google's.
S3_ENDPOINTS = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
_GCS_ENDPOINTS = ("STORAGE_EMULATOR_HOST", "CLOUD_STORAGE_EMULATOR_ENDPOINT")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_CONNECT_SECONDS, _REQUEST_SECONDS, _TRIES = 10, 60, 3
_GCS_SECONDS = 20
# Bytes that are copied at a time.
_CHUNK = 8 << 20
# Longest reason in a message, characters.
_LONGEST = 300
_SCHEMES = ("gs", "s3")
# Endings of annotation files, which alone are fetched of a folder.
_TEXTS = (".csv", ".json", ".jsonl", ".tsv", ".txt")


def in_store(place: str, name: str = "") -> bool:
    """Whether a place is in an object store that `Store` can use.

    Args:
        place: a local path, or one such as `gs://bucket/folder`.
        name: of the flag, if the line should name it.

    Raises:
        UserError: it is in a store of another kind, or malformed.
    """
    if not is_store(place, name):
        return False
    scheme = place.partition("://")[0]
    if scheme not in _SCHEMES:
        raise UserError(
            f"{f'{name}=' if name else ''}{place} is in a store that is not supported "
            f"here; use {' or '.join(f'{x}://' for x in _SCHEMES)}"
        )
    return True


class Listed(NamedTuple):
    """A file of a listing.

    Attributes:
        size: bytes.
        changed: when it was written, ns since 1970; of a file that is written again
            it changes.
    """

    size: int
    changed: int


class Store:
    """A folder that files are read from and written to, by their path below it.

    Args:
        place: a local path, or one such as `gs://bucket/folder`.

    Raises:
        UserError: it is in a store of another kind, or its client cannot be set up.
    """

    def __init__(self, place: "str | os.PathLike[str] | epath.Path"):
        self.place = str(place)
        self.is_remote = in_store(self.place)
        if self.is_remote:
            self.place = self.place.rstrip("/")
        else:
            self.place = str(Path(self.place).expanduser().absolute())
        scheme, _, path = self.place.rpartition("://")
        self._root = path or self.place
        self._seeks = scheme != "gs"
        with using(self.place):
            self._system = _system(scheme, self._root.partition("/")[0])

    def at(self, name: str) -> str:
        """The path or URI of a file below this folder."""
        return f"{self.place}/{name}" if name else self.place

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def files(self, below: str = "") -> dict[str, Listed]:
        """All files below a folder of this one, by their path below this one.

        Of a folder that is not there, as of an empty one, there are none: object stores
        cannot tell them apart.
        """
        import pyarrow.fs

        chosen = pyarrow.fs.FileSelector(
            self._path(below), recursive=True, allow_not_found=True
        )
        with using(self.at(below)):
            found = self._system.get_file_info(chosen)
            if self.is_remote and not found:
                self._check_bucket()
        return {
            # One slash: what is left of `a//b` is no path.
            x.path[len(self._root) :].removeprefix("/"): Listed(x.size, x.mtime_ns or 0)
            for x in found
            if x.type == pyarrow.fs.FileType.File
        }

    def _check_bucket(self) -> None:
        import pyarrow.fs

        bucket = self._root.partition("/")[0]
        if self._system.get_file_info(bucket).type == pyarrow.fs.FileType.NotFound:
            raise OSError(f"Bucket '{bucket}' not found")

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is none."""
        with using(self.at(name)):
            about = self._system.get_file_info(self._path(name))
        return about.size if about.is_file else None

    def read(self, name: str, start: int = 0, size: int | None = None) -> bytes:
        """Bytes of a file, fewer than `size` where it ends.

        Raises:
            FileNotFoundError: there is no such file.
            UserError: the store cannot be used.
        """
        with using(self.at(name)), self._opened(name, start) as file:
            return file.read(size)

    @contextlib.contextmanager
    def _opened(self, name: str, start: int) -> Iterator[Any]:
        """A file from a byte on."""
        if not self._seeks:
            # pyarrow takes a file of Google's that it can seek in for a closed one.
            with self._system.open_input_stream(self._path(name)) as file:
                while start:
                    start -= len(file.read(min(start, _CHUNK))) or start
                yield file
            return
        with self._system.open_input_file(self._path(name)) as file:
            file.seek(start)
            yield file

    def write(self, name: str, content: bytes) -> None:
        """Replaces a file in one step."""
        with self.writing(name) as file:
            file.write(content)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """A stream to write to, which replaces a file when the block succeeds.

        If the block fails, nothing is left; if the process is killed, nothing is seen.
        """
        if not self.is_remote:
            path = Path(self._path(name))
            # Two machines that share the folder may both write it.
            with replacing_file(path) as file:
                yield file
            return
        with using(self.at(name)):
            file = self._system.open_output_stream(self._path(name))
        try:
            yield file
            with using(self.at(name)):
                file.close()
        except BaseException:
            # Closing is all that a stream can do, and makes what is there a file.
            with contextlib.suppress(OSError, ValueError):
                file.close()
                self._system.delete_file(self._path(name))
            raise

    def fetch(self, name: str, to: Path) -> None:
        """Copies a file to this machine."""
        with (
            to.open("wb") as target,
            using(self.at(name)),
            self._system.open_input_stream(self._path(name)) as source,
        ):
            shutil.copyfileobj(source, target, _CHUNK)

    def copy_range(self, name: str, start: int, size: int, to: Any) -> None:
        """Copies bytes of a file to a stream.

        Raises:
            UserError: the file ends before that.
        """
        with using(self.at(name)), self._opened(name, start) as source:
            while size:
                piece = source.read(min(size, _CHUNK))
                if not piece:
                    raise UserError(
                        f"{self.at(name)} is cut off; run the command again"
                    )
                to.write(piece)
                size -= len(piece)

    def remove(self, below: str) -> None:
        """Removes a folder and what is in it, if there is one."""
        import pyarrow.fs

        with using(self.at(below)):
            about = self._system.get_file_info(self._path(below))
            if about.type == pyarrow.fs.FileType.Directory:
                # Of Google's, what is in it goes; that it is no object is an error.
                with contextlib.suppress(FileNotFoundError):
                    self._system.delete_dir(self._path(below))


def _system(scheme: str, bucket: str) -> Any:
    """The client of a store; this machine's without a scheme."""
    endpoints = {"s3": S3_ENDPOINTS, "gs": _GCS_ENDPOINTS}.get(scheme, ())
    return _client(scheme, bucket, _first(endpoints), _first(_REGIONS))


@functools.lru_cache(maxsize=16)
def _client(scheme: str, bucket: str, endpoint: str, region: str) -> Any:
    from pyarrow import fs

    if not scheme:
        return fs.LocalFileSystem()
    if scheme == "s3":
        if not region and not endpoint:
            region = fs.resolve_s3_region(bucket)
        return fs.S3FileSystem(
            endpoint_override=endpoint or None,
            region=region or None,
            connect_timeout=_CONNECT_SECONDS,
            request_timeout=_REQUEST_SECONDS,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_TRIES),
        )
    if scheme == "gs":
        limit = datetime.timedelta(seconds=_GCS_SECONDS)
        if endpoint:
            kind, _, address = endpoint.rpartition("://")
            return fs.GcsFileSystem(
                anonymous=True,
                scheme=kind or "http",
                endpoint_override=address.rstrip("/"),
                retry_time_limit=limit,
            )
        return fs.GcsFileSystem(retry_time_limit=limit)
    raise ValueError(scheme)


def _first(names: tuple[str, ...]) -> str:
    return next((os.environ[x] for x in names if os.environ.get(x)), "")


@contextlib.contextmanager
def fetched(place: "str | os.PathLike[str]") -> Iterator[Path]:
    """A copy on this machine of a text file, or of a folder's text files.

    A local path is yielded as it is.

    Raises:
        UserError: there is none, or an error names the copy, and then the original.
    """
    text = str(place)
    if not is_store(text):
        yield Path(text)
        return
    parent, _, name = text.rstrip("/").rpartition("/")
    with tempfile.TemporaryDirectory(prefix="vop-fetched-") as folder:
        copy = Path(folder) / name
        if name.endswith(_TEXTS):
            try:
                Store(parent).fetch(name, copy)
            except FileNotFoundError:
                raise UserError(f"{text} does not exist") from None
        else:
            _fetch_texts(Store(text), copy)
        try:
            yield copy
        except UserError as error:
            raise UserError(str(error).replace(str(copy), text)) from error


def _fetch_texts(store: Store, copy: Path) -> None:
    names = [
        name
        for name in store.files()
        # An object may have any name; none leads out of the folder.
        if name.endswith(_TEXTS) and is_plain(name)
    ]
    if not names:
        raise UserError(f"{store.place} holds no file that ends in {', '.join(_TEXTS)}")
    for name in names:
        try:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            store.fetch(name, copy / name)
        # Of a store `a` and `a/b` may both be files, of this machine they cannot.
        except OSError as error:
            reason = printable(error.strerror or str(error))[:_LONGEST]
            raise UserError(
                f"{store.at(name)} cannot be copied to this machine ({reason}); rename "
                "it, or remove it"
            ) from error
