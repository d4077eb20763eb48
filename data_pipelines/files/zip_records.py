"""Records of an untrusted zip file, read within limits.

`zipfile` only lists the central directory, because it trusts the sizes stated there. A
record read here is the bytes that are really in the file: between its own header and
the next, as many as both headers state, and with the right checksum.
"""

import struct
import zipfile
import zlib
from typing import BinaryIO

from data_pipelines.files.array_bytes import one_line

# Bytes of the central directory: tens of thousands of records, listed in 0.2 s.
_LONGEST_DIRECTORY = 4 << 20
_HEADER = struct.Struct("<4s5H3I2H")
_UNKNOWN = 0xFFFFFFFF
_ENCRYPTED, _SIZES_BEHIND, _UTF8 = 1, 1 << 3, 1 << 11


class BadZip(Exception):
    """The archive is damaged, or of a form that ordinary writers never produce."""


class _Directory:
    """A file object that limits how much `zipfile` reads as the directory."""

    def __init__(self, file: BinaryIO):
        self.seek, self.tell, self._file = file.seek, file.tell, file

    def read(self, size: int = -1) -> bytes:
        if size > _LONGEST_DIRECTORY:
            raise BadZip("has a directory longer than any model's")
        return self._file.read(_LONGEST_DIRECTORY if size < 0 else size)


class ZipRecords:
    """The records of an archive.

    Attributes:
        sizes: name -> uncompressed bytes.

    Args:
        file: the archive; it must stay open while records are read.

    Raises:
        BadZip: not an archive, or one whose records overlap, repeat or have other sizes
            than stated.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        try:
            archive = zipfile.ZipFile(_Directory(file))  # pyright: ignore
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            ValueError,
            struct.error,
            IndexError,
            OverflowError,
            OSError,
        ) as error:
            raise BadZip(f"is damaged ({one_line(error)}); fetch it again") from None
        self._infos = _plain(archive.infolist())
        self._ends = _ends(list(self._infos.values()), archive.start_dir)
        self.sizes = {name: info.file_size for name, info in self._infos.items()}

    def is_stored(self, name: str) -> bool:
        """Whether a record is neither compressed nor encrypted."""
        info = self._infos[name]
        stored = info.compress_type == zipfile.ZIP_STORED
        return stored and not info.flag_bits & _ENCRYPTED

    def read(self, name: str, most: int | None = None) -> bytes:
        """Reads a record and checks its headers and its checksum.

        Args:
            name: of the record.
            most: the most bytes that it may decompress to; None accepts only records
                that are stored uncompressed.

        Raises:
            BadZip: damaged, encrypted, compressed though `most` is None, or too large.
        """
        info = self._infos[name]
        packed = info.compress_type == zipfile.ZIP_DEFLATED and most is not None
        if not (self.is_stored(name) or packed) or info.flag_bits & _ENCRYPTED:
            raise BadZip(
                f"holds {one_line(name)!r} compressed or encrypted; "
                "save it uncompressed"
            )
        raw = self._raw(info)
        if packed:
            if info.file_size > (most or 0):
                raise BadZip(
                    f"unpacks {info.compress_size:,} bytes to {info.file_size:,}; "
                    "save it uncompressed"
                )
            raw = _inflate(raw, info)
        if len(raw) != info.file_size or zlib.crc32(raw) != info.CRC:
            raise _damaged(f"{one_line(name)} has a wrong checksum or size")
        return raw

    def head(self, name: str, size: int) -> bytes:
        """The first bytes of a record that is stored uncompressed.

        Its headers are checked, but not its checksum.

        Raises:
            BadZip: damaged, compressed or encrypted.
        """
        if not self.is_stored(name):
            raise BadZip(
                f"holds {one_line(name)!r} compressed or encrypted; "
                "save it uncompressed"
            )
        return self._raw(self._infos[name], size)

    def _raw(self, info: zipfile.ZipInfo, most: int | None = None) -> bytes:
        """The stored bytes, possibly compressed, between two records' headers."""
        self._file.seek(info.header_offset)
        head = self._file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            raise _damaged(f"{one_line(info.filename)} has no header")
        signature, _, flags, method, _, _, crc, *sizes = _HEADER.unpack(head)
        packed, unpacked, name_size, extra_size = sizes
        begin = info.header_offset + _HEADER.size + name_size + extra_size
        if begin + info.compress_size > self._ends[info.header_offset]:
            raise _damaged(f"{one_line(info.filename)} overlaps the next record")
        name = self._file.read(name_size)
        extra = self._file.read(extra_size)
        if not flags & _SIZES_BEHIND:
            if _UNKNOWN in (packed, unpacked):
                unpacked, packed = _long_sizes(extra)
            stated = packed, unpacked, crc
            if stated != (info.compress_size, info.file_size, info.CRC):
                raise _damaged(f"{one_line(info.filename)} states two different sizes")
        text = name.decode("utf-8" if flags & _UTF8 else "cp437", "replace")
        same = (info.orig_filename, info.compress_type, info.flag_bits)
        if signature != b"PK\x03\x04" or (text, method, flags) != same:
            raise _damaged(
                f"{one_line(info.filename)} has the header of another record"
            )
        size = info.compress_size
        return self._file.read(size if most is None else min(size, most))


def _damaged(reason: str) -> BadZip:
    return BadZip(f"is damaged ({reason}); fetch it again")


def _plain(infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """The records by name; names that lead out of the archive are refused."""
    records: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        # The raw name: zipfile's own attribute ends at the first null byte.
        name = info.orig_filename
        parts = name.replace("\\", "/").split("/")
        plain = name.isprintable() and len(name) <= 512
        if (
            not plain
            or ".." in parts
            or name.startswith("/")
            or "\\" in name
            or ":" in parts[0]
        ):
            raise BadZip(f"holds a record named {one_line(name)!r}, which is refused")
        if name in records:
            raise BadZip(f"holds two records named {one_line(name)!r}")
        stored = info.compress_type == zipfile.ZIP_STORED
        if stored and info.file_size != info.compress_size:
            raise _damaged(
                f"{one_line(name)} states {info.file_size:,} bytes and has "
                f"{info.compress_size:,}"
            )
        records[name] = info
    return records


def _ends(infos: list[zipfile.ZipInfo], directory: int) -> dict[int, int]:
    """Where each record must end: at the next one, or at the directory."""
    infos = sorted(infos, key=lambda info: info.header_offset)
    if infos and infos[0].header_offset != 0:
        raise _damaged("bytes precede its first record")
    begins = [info.header_offset for info in infos]
    ends = [*begins[1:], directory]
    for info, end in zip(infos, ends, strict=False):
        if info.header_offset + _HEADER.size + info.compress_size > end:
            raise _damaged("its records overlap, it states more bytes than it has")
    return dict(zip(begins, ends, strict=False))


def _long_sizes(extra: bytes) -> tuple[int, int]:
    """The uncompressed and compressed size in a header's field for 64-bit sizes."""
    place = 0
    while place + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, place)
        if kind == 1 and size >= 16 and place + 20 <= len(extra):
            return struct.unpack_from("<QQ", extra, place + 4)
        place += 4 + size
    raise _damaged("a record lacks its size")


def _inflate(raw: bytes, info: zipfile.ZipInfo) -> bytes:
    """The decompressed bytes, at most one more than stated."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        found = unpacker.decompress(raw, info.file_size + 1)
        # The end-of-stream marker may need another call though every byte is there.
        whole = unpacker.eof or not unpacker.decompress(unpacker.unconsumed_tail, 1)
    except zlib.error as error:
        raise _damaged(one_line(error)) from None
    if not (whole and unpacker.eof) or unpacker.unused_data:
        raise _damaged(
            f"{one_line(info.filename)} does not decompress to its stated size"
        )
    return found
