"""A searchable index of a folder of videos.

    with VideoIndex.create("videos.index") as index:
        index.update(model, "videos", checkpoint)
    with VideoIndex.open("videos.index") as index:
        found = index.search(model, ["a red circle"])

It is written in short commits: an interrupted update is resumed by the next one.
"""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipelines.console.errors import UserError
from data_pipelines.console.printable import printable
from data_pipelines.decoding.cuts import WINDOWS, check_cut
from data_pipelines.files.outputs import check_outputs
from vop_jax.index.answers import Counts, Filters, Found, Query
from vop_jax.index.background import Background
from vop_jax.index.contents import is_unchanged
from vop_jax.index.encoder import VideoEncoder
from vop_jax.index.export import Written, export
from vop_jax.index.folders import folder_remark
from vop_jax.index.given_paths import located
from vop_jax.index.listing import PathLike, existing_folder, list_videos
from vop_jax.index.location import existing_place, file_below, place_of
from vop_jax.index.meta import MOMENT_SECONDS, Meta
from vop_jax.index.searching import answers, check_queries, embedded
from vop_jax.index.shards import Shard
from vop_jax.index.source import Source
from vop_jax.index.store_errors import reading
from vop_jax.index.tables import VideoRow, after
from vop_jax.index.update import Plan, Summary, Updater, faulty
from vop_jax.index.upkeep import keep_up, whole_sets
from vop_jax.index.view import newest


class VideoIndex:
    """An index; `open` it to search, `create` it to update.

    Several threads may search at the same time.

    Args:
        place: an absolute local path, or the URI of an object store.
        videos: where the folder of videos is now; by default where it was.
        cut: where the moments of an update begin; by default as before.
    """

    def __init__(
        self, place: Path | str, videos: PathLike | None = None, cut: str | None = None
    ):
        self._source, self._videos, self._cut = Source(place), videos, cut

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, path: PathLike, videos: PathLike | None = None
    ) -> Iterator["VideoIndex"]:
        """Opens an index for searching; other processes may be updating it meanwhile.

        Args:
            path: a local folder, or a URI such as `s3://bucket/videos.index`.
            videos: where the folder of videos is now, if it has moved.

        Raises:
            UserError: there is no index, or it cannot be read.
        """
        place = existing_place(path)
        root = None if videos is None else existing_folder(videos)
        index = cls(place, root)
        with contextlib.closing(index._source):
            if index.is_empty:
                raise UserError(
                    f"{place} is not an index of videos; python -m vop_jax.search "
                    "index makes one"
                )
            yield index

    @classmethod
    @contextlib.contextmanager
    def create(
        cls, path: PathLike, *, cut: str | None = None
    ) -> Iterator["VideoIndex"]:
        """Opens an index for updating; creates it if it is missing.

        Any number of processes may update an index at once.

        Args:
            path: a local folder, or a URI such as `gs://bucket/videos.index`.
            cut: where moments begin, `windows` of equal length or `shots`; by default
                as before, or windows.

        Raises:
            UserError: it is something else or cannot be written, or `cut` cannot be.
        """
        if cut is not None:
            check_cut(cut)
        index = cls(place_of(path), cut=cut)
        with contextlib.closing(index._source):
            # Found out now: whether it is an index at all.
            _ = index._source.store
            yield index

    @property
    def path(self) -> Path | str:
        """The index: a local folder, or a URI."""
        return self._source.place

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been stored yet, not even by which model."""
        return self._source.meta is None

    @property
    def meta(self) -> Meta:
        """What it was made with.

        Raises:
            UserError: nothing has been stored yet.
        """
        if self._source.meta is None:
            raise UserError(f"{self.path} holds nothing yet; index again")
        return self._source.meta

    @property
    def dtype(self) -> str:
        """The compute dtype of the model that it was made with."""
        return self.meta.dtype

    @property
    def root(self) -> Path:
        """The folder of the videos."""
        return Path(self._videos or self.meta.videos)

    @property
    def background(self) -> Background | None:
        """What it answers to unrelated sentences; None until it has been measured."""
        return self._source.background

    def update(
        self,
        model: VideoEncoder,
        videos: PathLike,
        checkpoint: PathLike = "",
        *,
        moment_seconds: float | None = None,
        rebuild: bool = False,
        retry: bool = False,
        shard: Shard = Shard(),  # noqa: B008
    ) -> Summary:
        """Updates the index to the current content of a folder of videos.

        Args:
            model: embeds the moments.
            videos: the folder.
            checkpoint: where the model was loaded from, so that a search can load it.
            moment_seconds: length of a moment; by default that of the index, or 8.
            rebuild: whether to embed all videos again, whatever model or folder the
                index was made from.
            retry: whether to read unreadable files again even if they did not change.
            shard: the part of the videos that this process indexes.

        Raises:
            UserError: the index was made from another model or folder, or the folder
                holds no video.
        """
        started = time.monotonic()
        root = existing_folder(videos)
        if not self.is_empty and not rebuild:
            self.check_model(model)
            self.meta.check_same(root, moment_seconds, self._cut, self.path)
            check_cut(self.meta.cut)
        listing = list_videos(root)
        self._begin(model, root, str(checkpoint), moment_seconds, rebuild)
        store = self._source.store
        rows, _ = store.videos()
        if rows:
            after(rows[-1].id)
        known = newest(rows, self.meta.digest)
        plan = Plan(listing, known, whole_sets(store, known), shard, retry)
        updater = Updater(store, self.meta, model, root)
        updater.run(plan)
        kept = keep_up(store, self.meta, model)
        self._source.forget()
        own = {file.path for file in plan.own}
        rows = [row for path, row in kept.rows.items() if path in own]
        return Summary(
            indexed=updater.indexed,
            unchanged=plan.unchanged,
            kept=updater.kept,
            removed=len(plan.gone) - updater.moved,
            moments=updater.moments,
            partly=faulty(row for row in rows if row.moments),
            unreadable=sorted(
                [
                    *faulty(row for row in rows if not row.moments),
                    *updater.gone,
                    *listing.closed,
                ]
            ),
            not_video=listing.others,
            recall=kept.recall,
            seconds=time.monotonic() - started,
        )

    def _begin(
        self,
        model: VideoEncoder,
        root: Path,
        checkpoint: str,
        moment_seconds: float | None,
        rebuild: bool,
    ) -> None:
        """Makes sure that the store has tables, and says what it is made with."""
        source, store = self._source, self._source.store
        if rebuild:
            store.empty()
            source.take({})
        if source.meta is None:
            size = model.encode_texts(["a video"]).shape[1]
            meta = Meta(
                fingerprint=model.fingerprint,
                num_frames=model.num_frames,
                dtype=model.dtype,
                embedding=size,
                moment_seconds=moment_seconds or MOMENT_SECONDS,
                cut=self._cut or WINDOWS,
            )
            store.begin(size)
            store.record("identity", meta.identity)
            # Of processes that begin an index at once, the first one says what it is.
            source.take(store.records())
            self.check_model(model)
            self.meta.check_same(root, moment_seconds, self._cut, self.path)
        place = {"checkpoint": checkpoint, "videos": str(root)}
        if self.meta.place != place:
            source.meta = dataclasses.replace(self.meta, **place)
            store.record("place", place)

    def check_model(self, model: VideoEncoder) -> None:
        """Checks that the index was made with this model.

        Raises:
            UserError: it was made with another.
        """
        self.meta.check_model(model, self.path)

    def search(
        self,
        model: VideoEncoder,
        queries: Sequence[Query | str],
        *,
        top: int = 10,
        per_video: int = 1,
        filters: Filters = Filters(),  # noqa: B008
    ) -> Found:
        """The stretches of videos that are most similar to each query.

        Args:
            model: embeds the queries; the one that the index was made with.
            queries: texts, pictures, or moments of the index.
            top: number of hits per query.
            per_video: the most hits in one video.
            filters: which videos are considered.

        Raises:
            UserError: the index was made with another model, it holds no video, a query
                is empty, or a number is less than 1.
        """
        for name, value in (("top", top), ("per_video", per_video)):
            if value < 1:
                raise UserError(f"--{name} is {value}; it must be at least 1")
        asked = [Query(text=x) if isinstance(x, str) else x for x in queries]
        check_queries(asked)
        filters.check()
        times = [time.perf_counter()]
        view = self._source.view()
        self.check_model(model)
        if not len(view):
            why = f"; {view.refused[0]}" if view.refused else ""
            raise UserError(f"{self.path} holds no video that could be read{why}")
        times.append(time.perf_counter())
        embeddings = embedded(model, view, asked, self.root)
        times.append(time.perf_counter())
        filters = located(filters, view.rows, self.root)
        allowed = view.allowed(filters)
        with reading(self.path):
            found, damaged = answers(
                view,
                embeddings,
                self.background,
                self.root,
                top=top,
                per_video=per_video,
                filters=filters,
                allowed=allowed,
            )
        videos, moments = view.counted(filters, allowed)
        times.append(time.perf_counter())
        read, embed, search = (b - a for a, b in itertools.pairwise(times))
        return Found(
            answers=found,
            videos=videos,
            moments=moments,
            refused=[*view.refused, *damaged],
            seconds={"read": read, "embed": embed, "search": search},
        )

    def file(self, video: str) -> Path:
        """The file of a video of the index.

        Raises:
            UserError: the index has no such video or could not read it, or the file is
                not there any more or has changed.
        """
        row = self.video(video)
        name = printable(video[:200])
        # A link in the folder may lead to anything; only what was decoded as a video,
        # and is still the same, is shown to others.
        if not row.moments:
            raise UserError(f"{name} could not be read as a video ({row.status})")
        file = file_below(self.root, row.path)
        if not is_unchanged(file, row.size, row.mtime_ns, row.content):
            raise UserError(f"{name} has changed since it was indexed; index again")
        return file

    def video(self, video: str) -> VideoRow:
        """What the index knows of a video.

        Args:
            video: path relative to the folder.

        Raises:
            UserError: the index has no such video.
        """
        row = self._source.view().rows.get(video)
        if row is None:
            raise UserError(f"{printable(video[:200])} is not in {self.path}")
        return row

    def check_time(self, video: str, time: float) -> None:
        """Checks that a video of the index does not end before a time, seconds.

        Raises:
            BeyondTheEndError: it does.
            UserError: the index has no such video.
        """
        self._source.view().check_time(self.video(video), time)

    def thumbnail(self, moment: str) -> bytes | None:
        """The JPEG of a moment.

        Args:
            moment: its id, as of a hit.

        Returns:
            None if the index has no such moment, or its picture is damaged.
        """
        view = self._source.view(table=True)
        if (found := view.moment_named(moment)) is None:
            return None
        with reading(self.path):
            return view.thumbnail(found)

    def folder_remark(self, folder: str) -> str:
        """What is to be said of a folder to search in; empty if it holds a video."""
        return folder_remark(folder, self._source.view().rows, self.root)

    def open_tables(self) -> None:
        """Opens what thumbnails are read from, which takes seconds the first time."""
        self._source.view(table=True)

    def counts(self) -> Counts:
        """How much the index holds."""
        view = self._source.view()
        return Counts(
            videos=sum(map(len, view.videos)),
            moments=len(view),
            unreadable=sum(not row.moments for row in view.rows.values()),
        )

    def export(self, output: PathLike) -> Written:
        """Writes the vectors of all moments; see `export.export`.

        Args:
            output: `FILE.parquet`, or `FILE.npy` with `FILE.jsonl` beside it.

        Raises:
            UserError: it has another suffix, or cannot be written.
        """
        path = Path(output).expanduser()
        check_outputs({"output": path}, [("index", self.path)])
        with reading(self.path):
            return export(self._source.view(), path)
