"""What answers requests: the index, the model, the previews, and their limits."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from starlette.exceptions import HTTPException

from data_pipelines.console.errors import UserError
from data_pipelines.console.printable import printable
from data_pipelines.text.tokenizer import Tokenizer
from vop_jax.index.answers import BeyondTheEndError, Found, Hit, NotInTheIndexError
from vop_jax.index.encoder import VideoEncoder
from vop_jax.index.moment_names import name_of
from vop_jax.index.page import Form, search_page
from vop_jax.index.remarks import remarked
from vop_jax.index.video_index import VideoIndex
from vop_jax.serving.previews import LONGEST, Clip, Previews
from vop_jax.serving.requests import Asked, Stretch, address
from vop_jax.serving.slots import Slots

# Texts to try on a page without a query; those are shown that the model knows.
_EXAMPLES = (
    "a dog runs on the grass",
    "a person cooks in a kitchen",
    "waves at the sea",
    "a red circle moves up",
    "a blue square rotates",
    "a green ring grows",
)
# How many searches run and wait, and how long one may take. Two cores embed one text
# each in milliseconds, so the queue is a second of work.
_SEARCHES = (min(4, os.cpu_count() or 1), 64, 10.0)
# Pictures and files of a page: each is read in a millisecond or so, and a page asks for
# many at once.
_READS = (4, 256, 10.0)
# Previews: each takes a process and its memory.
_CLIPS = (2, 8, 30.0)


class TextModel(VideoEncoder, Protocol):
    """The interface of a model that the server needs."""

    @property
    def tokenizer(self) -> Tokenizer:
        """It tells which words the model knows."""
        ...


class Service:
    """Searches and makes clips, so many at once.

    Args:
        index: the index to search.
        model: embeds the queries.
        top: hits of a query, unless a request says otherwise.
        as_json: the results as `search query --json` prints them.
        previews: makes and keeps the previews.
    """

    def __init__(
        self,
        index: VideoIndex,
        model: TextModel,
        top: int,
        as_json: Callable[[VideoIndex, Found], dict[str, Any]],
        previews: Previews,
    ):
        self.index, self.model, self.top = index, model, top
        self.as_json, self.previews = as_json, previews
        self.searches, self.reads = Slots(*_SEARCHES), Slots(*_READS)
        self.clips = Slots(*_CLIPS)
        self._making: dict[tuple, asyncio.Task[Clip]] = {}
        self.examples = [
            (text, address("/", q=text))
            for text in _EXAMPLES
            if not model.tokenizer.remark(text)
        ]

    def begin(self) -> None:
        """Opens what the first picture, and those beside it, would wait for."""
        self.reads.begin(self.index.open_tables)

    def search(self, what: Asked) -> Found:
        """The results of a search.

        Raises:
            HTTPException: a moment is of a video that the index has not, or behind its
                end.
            UserError: the index cannot be searched.
        """
        try:
            found = self.index.search(
                self.model,
                what.queries,
                top=what.top or self.top,
                per_video=what.per_video,
                filters=what.filters,
            )
            words, folder = self.model.tokenizer, what.filters.folder
            return remarked(self.index, found, what.queries, words, folder)
        except BeyondTheEndError as error:
            raise HTTPException(422, f"like: {printable(str(error))}") from None
        except NotInTheIndexError as error:
            raise HTTPException(404, f"like: {printable(str(error))}") from None

    def page(self, what: Asked, is_search: bool) -> tuple[int, str]:
        """Status and HTML of the page."""
        form = Form(_Links(what), what.fields, self.examples)
        status, found = 200, None
        if is_search and not what.queries:
            remark = "The query is empty; describe what happens in the video."
            form = form._replace(remark=remark)
        try:
            if what.queries:
                found = self.search(what)
            return status, search_page(self.index, found, form)
        except UserError as error:
            status, form = 503, form._replace(problem=printable(str(error)))
            return status, search_page(self.index, None, form)

    def file(self, video: str) -> Path:
        """The file of a video of the index.

        Raises:
            HTTPException: there is none.
        """
        try:
            return self.index.file(video)
        except UserError as error:
            raise HTTPException(404, printable(str(error))) from None

    async def clip(self, what: Stretch) -> Clip:
        """What to play; requests for the same stretch wait for one preview.

        Raises:
            HTTPException: the index has no such video, or the video ends before.
            PreviewError: it cannot be shown.
            BusyError: too many are being made.
        """
        path = await self.reads.run(self._file_of, what)
        task = self._making.get(what)
        if task is None:
            making = self.clips.run(self.previews.clip, path, what.start, what.end)
            task = self._making[what] = asyncio.ensure_future(making)
            task.add_done_callback(lambda _: self._making.pop(what))
        return await asyncio.shield(task)

    def _file_of(self, what: Stretch) -> Path:
        path = self.file(what.video)
        try:
            self.index.check_time(what.video, what.start)
        except BeyondTheEndError as error:
            raise HTTPException(422, f"start: {printable(str(error))}") from None
        return path

    def close(self) -> None:
        """Ends what still runs."""
        self.previews.close()
        for slots in (self.searches, self.reads, self.clips):
            slots.close()


class _Links:
    """The addresses of a hit; those of more of its kind keep the filters."""

    def __init__(self, what: Asked):
        self._kept = {x: y for x, y in what.fields.items() if x not in ("q", "like")}

    def play(self, hit: Hit) -> str:
        # Of a short stretch everything is shown.
        best = hit.best if hit.end - hit.start > LONGEST else None
        return address(
            "/play", video=hit.video, start=hit.start, end=hit.end, best=best
        )

    def like(self, hit: Hit) -> str:
        best = name_of(hit.video, hit.best)
        return address("/", like=best, **self._kept)

    def thumbnail(self, hit: Hit) -> str:
        return address("/thumbnail", moment=hit.moment)
