"""An index of moments in memory, of one colour each, over real files."""

import dataclasses
import io
import itertools
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.console.errors import UserError
from data_pipelines.text.tokenizer import Tokenizer
from vop_jax.index.answers import Answer, BeyondTheEndError, Filters, Found, Hit
from vop_jax.index.folders import folder_remark
from vop_jax.index.given_paths import video_named


@dataclasses.dataclass
class Counts:
    videos: int
    moments: int
    unreadable: int = 0


@dataclasses.dataclass
class Moment:
    """A stretch of a video whose vector is a colour."""

    video: str
    start: float
    end: float
    colour: tuple
    duration: float = 10.0
    copies: tuple = ()
    best: float = 0.0


class MomentIndex:
    """Answers as `VideoIndex` does; a hit below `weak_below` is weak."""

    def __init__(self, root, moments, weak_below=0.5):
        self.root, self.path, self.meta = Path(root), Path(root) / "index", {}
        self.moments, self.weak_below = list(moments), weak_below
        self.asked, self.problem, self.refused = [], None, []
        self.opened = threading.Event()

    def counts(self):
        return Counts(len({x.video for x in self.moments}), len(self.moments), 1)

    def search(self, model, queries, *, top=10, per_video=1, filters=None):
        if self.problem:
            raise UserError(self.problem)
        filters = filters or Filters()
        self.asked.append((list(queries), top, per_video, filters))
        return Found(
            [self._answer(model, x, top, filters) for x in queries],
            len(self.moments),
            len(self.moments),
            self.refused,
            {"read": 0.0, "embed": 0.001, "search": 0.001},
        )

    def _answer(self, model, query, top, filters):
        if query.like:
            video_named(query.like[0], [x.video for x in self.moments], self.root)
            of_video = [x for x in self.moments if x.video == query.like[0]]
            at = next((x for x in of_video if x.start <= query.like[1] <= x.end), None)
            if at is None:
                raise BeyondTheEndError(f"{query.like[0]} is 10 seconds long")
            vector = np.array(at.colour, np.float32)
        else:
            vector = model.encode_texts([query.text])[0]
        scored = [
            (float(np.array(x.colour) @ vector / np.linalg.norm(x.colour)), i, x)
            for i, x in enumerate(self.moments)
            if x.video.startswith(filters.folder)
            and x.duration >= (filters.min_seconds or 0)
        ]
        scored.sort(key=lambda x: -x[0])
        hits = [
            Hit(
                *(rank, x.video, x.start, x.end, value, 1.0, value < self.weak_below),
                *((self.root / x.video).exists(), x.duration, x.copies, f"m{i}"),
                x.best or (x.start + x.end) / 2,
            )
            for rank, (value, i, x) in enumerate(itertools.islice(scored, top), 1)
        ]
        return Answer(query.text or "{}@{:g}".format(*query.like), hits)

    def video(self, video):
        if video not in {x.video for x in self.moments}:
            raise UserError(f"{video} is not in the index")

    def check_time(self, video, time):
        if time > 100:
            raise BeyondTheEndError(f"{video} is 100 seconds long")

    def file(self, video):
        self.video(video)
        return self.root / video

    def folder_remark(self, folder):
        return folder_remark(folder, [x.video for x in self.moments], self.root)

    def open_tables(self):
        self.opened.set()

    def thumbnail(self, moment):
        ids = {f"m{i}": x for i, x in enumerate(self.moments)}
        if moment not in ids:
            return None
        content = io.BytesIO()
        Image.new("RGB", (160, 120), tuple(ids[moment].colour)).save(content, "jpeg")
        return content.getvalue()


WORDS = ("red", "green", "blue", "circle", "a")


def colour_tokenizer():
    """A tokenizer of a few words."""
    ids = {word: i + 2 for i, word in enumerate(WORDS)}
    return Tokenizer(
        lambda text: [ids.get(x, 1) for x in text.split()],
        start_id=98,
        end_id=99,
        length=16,
        unknown_id=1,
    )
