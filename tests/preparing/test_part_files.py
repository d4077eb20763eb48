"""Parts that are damaged, crafted or of something else are not believed."""

import io
import json
import zlib

import pytest

from data_pipelines.console.errors import UserError
from data_pipelines.files.stores import Store
from data_pipelines.preparing.joining import LIST, Joining, join_shard
from data_pipelines.preparing.part_files import (
    Outcome,
    Part,
    SummingStream,
    checksums_of,
    joined_checksum,
    read_part,
)
from data_pipelines.preparing.parts import write_list

GOOD = ["", "", ["rotated"], 5, 7]
FAILED = ["corrupt", "it is", [], 0, 0]


def put(store, value):
    text = value if isinstance(value, str) else json.dumps(value)
    store.write("part", text.encode() + b"\nrecords")


def record(content):
    return len(content).to_bytes(8, "little") + b"1234" + content + b"5678"


def test_a_part_says_how_its_videos_fared(tmp_path):
    store = Store(tmp_path)
    put(store, [GOOD, FAILED])
    part = read_part(store, "part", 2)
    assert part == Part("part", [Outcome(*GOOD), Outcome(*FAILED)], part.start)
    assert (tmp_path / "part").read_bytes()[part.start :] == b"records"
    assert read_part(store, "none", 2) is None
    # A line of many long messages.
    put(store, [["corrupt", "é" * 1000, [], 0, 0]] * 64)
    assert len(read_part(store, "part", 64).outcomes) == 64


@pytest.mark.parametrize(
    "value",
    [
        *([["", "", [], size, 7]] for size in ("5", 5.0, -5, True, 2**63, None)),
        *([["", "", [], 5, checksum]] for checksum in ("7", -7, 2**32)),
        *([["", "", notes, 5, 7]] for notes in (5, "rotated", ["odd"], [5])),
        *([[status, "", [], 0, 0]] for status in ("odd", "rotated", "", 7)),
        # Of a record and of a failure at once, and as before checksums.
        *([["corrupt", "", [], 5, 7]], [["corrupt", "", [], 0, 7]], [GOOD[:4]]),
        *([], [GOOD, GOOD], [5], 5, {"a": GOOD}, "[" * 100_000, "", "{}"),
    ],
)
def test_lines_that_are_of_no_such_part(value, tmp_path):
    put(Store(tmp_path), value)
    assert read_part(Store(tmp_path), "part", 1) is None


def test_a_file_without_a_line_is_not_read_whole(tmp_path, monkeypatch):
    (tmp_path / "part").write_bytes(b"[" * (4 << 20))
    plain, read = Store.read, []

    def noted(*given):
        read.append(plain(*given))
        return read[-1]

    monkeypatch.setattr(Store, "read", noted)
    assert read_part(Store(tmp_path), "part", 1) is None
    assert sum(map(len, read)) < 2 << 20
    (tmp_path / "part").write_bytes(b"\xff\n")
    assert read_part(Store(tmp_path), "part", 1) is None


@pytest.mark.parametrize("step", [1, 7, 8, 21, 1000])
def test_a_stream_sums_up_records_however_they_are_cut(step):
    records = [record(b"x" * size) for size in (0, 1, 30)]
    content, to = b"".join(records), io.BytesIO()
    stream = SummingStream(to)
    for start in range(0, len(content), step):
        stream.write(content[start : start + step])
    sums = checksums_of(io.BytesIO(content), [0, 1, 30])
    assert sums == [zlib.crc32(x) for x in records]
    assert stream.checksum == joined_checksum(sums)
    assert to.getvalue() == content


@pytest.mark.parametrize("damage", [lambda x: bytes(len(x)), lambda x: x[:-1] + b"!"])
def test_damaged_records_become_no_shard(damage, tmp_path):
    records = [record(b"a" * 10), record(b"b" * 20)]
    content = b"".join(records)
    checksums = [zlib.crc32(x) for x in records]
    sizes = zip((10, 20), checksums, strict=True)
    head = json.dumps([["", "", [], *x] for x in sizes]).encode() + b"\n"
    parts, target = Store(tmp_path / "parts"), Store(tmp_path / "target")
    source = ["part", len(head), len(content), joined_checksum(checksums)]
    shard = ["shard", 2, [source]]
    [line] = write_list(parts, LIST, [json.dumps(shard)])
    where = Joining(parts.place, target.place, "done")
    parts.write("part", head + damage(content))
    assert read_part(parts, "part", 2)
    with pytest.raises(UserError, match="/part is damaged; run the command again"):
        join_shard(where, line)
    assert not target.files()
    # It is made again.
    assert read_part(parts, "part", 2) is None
    parts.write("part", head + content)
    join_shard(where, line)
    assert target.read("shard") == content
