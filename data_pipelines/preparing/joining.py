"""The shards of a data set, joined of its parts by copying bytes.

Which record comes into which shard is TFDS's rule, so that the files are those that its
own writer makes of the same records.
"""

import bisect
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from data_pipelines.console.errors import UserError
from data_pipelines.files.stores import Store
from data_pipelines.preparing.part_files import (
    OVERHEAD,
    Outcome,
    Part,
    SummingStream,
    joined_checksum,
)
from data_pipelines.preparing.parts import Line, read_line

# The list of shards, a line of JSON each.
LIST = "listed-shards"


class Source(NamedTuple):
    """Bytes of a part.

    Attributes:
        part: the name of its file.
        start: the first byte.
        size: bytes.
        checksum: the `joined_checksum` of the records.
    """

    part: str
    start: int
    size: int
    checksum: int


class Shard(NamedTuple):
    """A file of records.

    Attributes:
        name: of its file.
        records: how many.
        sources: what it is joined of, in order.
    """

    name: str
    records: int
    sources: Sequence[Source]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(x.size for x in self.sources)


class Joining(NamedTuple):
    """Where parts are joined to shards.

    Attributes:
        parts: the folder of parts.
        target: the folder of shards.
        done: the folder of notes of finished shards, beside the parts.
    """

    parts: str
    target: str
    done: str


def plan_shards(dataset: str, split: str, parts: Sequence[Part]) -> list[Shard]:
    """The shards of a split.

    Args:
        dataset: its name.
        split: its name.
        parts: the parts of the split, in order.
    """
    # Imported late: it takes seconds.
    from etils import epath
    from tensorflow_datasets.core import naming
    from tensorflow_datasets.core.utils import shard_utils

    records = [[x for x in part.outcomes if x.size] for part in parts]
    count = sum(map(len, records))
    total = sum(x.size for own in records for x in own)
    number = shard_utils.ShardConfig().get_number_shards(total, count)
    names = naming.ShardedFileTemplate(
        split=split,
        dataset_name=dataset,
        data_dir=epath.Path(),
        filetype_suffix="tfrecord",
    )
    # The first record of each part, counted in the split.
    firsts = [0, *itertools.accumulate(map(len, records))]
    shards, begin = [], 0
    for index, end in enumerate(shard_utils.get_shard_boundaries(count, number)):
        name = names.sharded_filepath(shard_index=index, num_shards=number).name
        sources = list(_sources(parts, records, firsts, begin, end))
        shards.append(Shard(name, end - begin, sources))
        begin = end
    return shards


def _sources(
    parts: Sequence[Part],
    records: Sequence[Sequence[Outcome]],
    firsts: Sequence[int],
    begin: int,
    end: int,
) -> Iterator[Source]:
    """Where the records from `begin` to `end` of a split are."""
    place = bisect.bisect_right(firsts, begin) - 1
    while place < len(parts) and firsts[place] < end:
        own = records[place]
        low, high = max(begin - firsts[place], 0), min(end - firsts[place], len(own))
        start = parts[place].start + sum(x.size + OVERHEAD for x in own[:low])
        size = sum(x.size + OVERHEAD for x in own[low:high])
        if size:
            checksum = joined_checksum(x.checksum for x in own[low:high])
            yield Source(parts[place].name, start, size, checksum)
        place += 1


def digest_of(lines: Sequence[str]) -> str:
    """What tells the shards of one preparation from those of another."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:16]


def join_shard(joining: Joining, line: Line) -> None:
    """Writes a shard, unless it is there.

    Args:
        joining: where.
        line: where the shard is listed.

    Raises:
        UserError: a store cannot be used, or a part is damaged; the next run makes
            that again.
    """
    parts = Store(joining.parts)
    name, records, sources = json.loads(read_line(parts, LIST, line))
    shard = Shard(name, records, [Source(*x) for x in sources])
    target = Store(joining.target)
    note = f"{joining.done}/{shard.name}"
    if parts.size(note) is not None and target.size(shard.name) == shard.size:
        return
    with target.writing(shard.name) as file:
        for source in shard.sources:
            summed = SummingStream(file)
            parts.copy_range(source.part, source.start, source.size, summed)
            if summed.checksum != source.checksum:
                # Of no video, so that it does not count as made.
                parts.write(source.part, b"\n")
                raise UserError(
                    f"{parts.at(source.part)} is damaged; run the command again, which "
                    "makes it again"
                )
    parts.write(note, b"")
