"""Writes the vectors of an index to a file of another kind."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float

from data_pipelines.console.errors import UserError
from data_pipelines.files.regular_files import read_start
from data_pipelines.files.replacing import replacing_file
from vop_jax.index.endings import ENDINGS, check_ending
from vop_jax.index.path_text import bytes_of, text_of, with_bytes
from vop_jax.index.tables import VideoRow
from vop_jax.index.view import View

# Moments written at once.
_BLOCK = 16_384
# The most bytes of a line of names: a path of escapes, twice.
_LINE = 1 << 16


class Written(NamedTuple):
    """What was written: the files, and the number of moments in them."""

    files: list[Path]
    moments: int


def export(view: View, output: Path) -> Written:
    """Writes every moment of an index, damaged ones left out.

    Args:
        view: the index.
        output: `FILE.parquet` with the columns video, start, end, moment, video_bytes
            and vector (float32); or `FILE.npy`, float32 `[N, E]`, with `FILE.jsonl`
            beside it, of which line i says what row i is. A moment of a video that is
            there twice is there once for each. The bytes of a path that is not UTF-8
            stand beside it, see `path_text`; in a Parquet file as video_bytes, which is
            null of all others.

    Raises:
        UserError: it has another suffix, or cannot be written.
    """
    check_ending(output)
    writers = dict(zip(ENDINGS, (_write_parquet, _write_npy), strict=True))
    write = writers[output.suffix.lower()]
    try:
        return write(view, output)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{output} cannot be written ({reason})") from None


def _blocks(
    view: View,
) -> Iterator[tuple[list[tuple[VideoRow, int]], Float[np.ndarray, "n E"]]]:
    """Videos and moments with their vectors, in the order of the index."""
    for first in range(0, len(view), _BLOCK):
        moments = np.arange(first, min(first + _BLOCK, len(view)))
        vectors, _ = view.take(moments)
        places = view.set_of(moments)
        rows, kept = [], []
        for i, moment in enumerate(moments):
            if np.isfinite(vectors[i]).all():
                videos = view.videos[int(places[i])]
                rows += [(video, int(moment)) for video in videos]
                kept += [i] * len(videos)
        yield rows, vectors[kept]


def _about(view: View, video: VideoRow, moment: int) -> dict[str, Any]:
    return {
        "video": video.path,
        "start": float(view.starts[moment]),
        "end": float(view.ends[moment]),
        "moment": view.id_of(moment),
    }


def _write_npy(view: View, output: Path) -> Written:
    ids = output.with_suffix(".jsonl")
    _check_replaceable(ids)
    count = 0
    lengths = np.diff(view.first).tolist()
    most = sum(len(x) * n for x, n in zip(view.videos, lengths, strict=True))
    with (
        replacing_file(output) as file,
        replacing_file(ids) as lines,
    ):
        _write_header(file, most, view.size)
        for rows, vectors in _blocks(view):
            count += len(rows)
            file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
            for video, moment in rows:
                about = with_bytes(_about(view, video, moment))
                lines.write(f"{json.dumps(about)}\n".encode())
        # Damaged moments were counted and are not there.
        file.seek(0)
        _write_header(file, count, view.size)
    return Written([output, ids], count)


def _check_replaceable(ids: Path) -> None:
    """Checks that a file beside the one that was asked for is of an earlier export.

    Raises:
        UserError: it is another.
        OSError: it cannot be read.
    """
    if not ids.is_file() or not ids.stat().st_size:
        return
    try:
        about = json.loads(read_start(ids, _LINE).partition(b"\n")[0])
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict) or not {"video", "moment"} <= {*about}:
        raise UserError(
            f"{ids}, which is written beside the .npy file, is there and is not of an "
            "earlier export; use another --output"
        )


def _write_header(file: BinaryIO, rows: int, size: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, size)}
    np.lib.format.write_array_header_1_0(file, header)


def _write_parquet(view: View, output: Path) -> Written:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("video", pa.string()),
            ("start", pa.float64()),
            ("end", pa.float64()),
            ("moment", pa.string()),
            ("video_bytes", pa.binary()),
            ("vector", pa.list_(pa.float32(), view.size)),
        ]
    )
    count = 0
    with replacing_file(output) as file, pq.ParquetWriter(file, schema) as writer:
        for rows, vectors in _blocks(view):
            about = [_about(view, video, moment) for video, moment in rows]
            for each in about:
                path = each["video"]
                each |= {"video": text_of(path), "video_bytes": bytes_of(path)}
            columns = {
                name: [each[name] for each in about] for name in schema.names[:-1]
            }
            values = pa.array(vectors.astype(np.float32).ravel())
            columns["vector"] = pa.FixedSizeListArray.from_arrays(values, view.size)
            writer.write_table(pa.table(columns, schema=schema))
            count += len(rows)
    return Written([output], count)
