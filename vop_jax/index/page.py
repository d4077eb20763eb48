"""The HTML page of a search's results, for a file or the server."""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from data_pipelines.console.printable import printable
from vop_jax.index.answers import Found, Hit
from vop_jax.index.video_index import VideoIndex
from vop_jax.pages.render import render


class Links(Protocol):
    """The addresses that a page of the server has, and a file has not."""

    def play(self, hit: Hit) -> str:
        """Plays the stretch."""
        ...

    def like(self, hit: Hit) -> str:
        """Finds more of its kind."""
        ...

    def thumbnail(self, hit: Hit) -> str:
        """Its picture."""
        ...


class Form(NamedTuple):
    """The search field of a page, and what stands beside it.

    Attributes:
        links: of the hits.
        fields: values of the fields by name.
        examples: texts to try, with their addresses.
        remark: what is to be said of the query.
        problem: an error to show.
    """

    links: Links
    fields: Mapping[str, str] = {}
    examples: Sequence[tuple[str, str]] = ()
    remark: str = ""
    problem: str = ""


def search_page(
    index: VideoIndex, found: Found | None = None, form: Form | None = None
) -> str:
    """Renders results as cards, one a stretch.

    Args:
        index: the index that was searched.
        found: the results, if there was a search.
        form: the search field of the server's page; without it the page is a file that
            needs no server, with the pictures in it.
    """
    answers = found.answers if found else []
    counts = index.counts()
    return render(
        "search.html",
        folder=printable(str(index.root)),
        counts=counts,
        found=found,
        answers=[
            {
                "query": printable(answer.query),
                "hits": [_card(index, hit, form) for hit in answer.hits],
                "stands_out": any(not hit.weak for hit in answer.hits),
            }
            for answer in answers
        ],
        remark=" ".join(found.remarks) if found else form.remark if form else "",
        form=form and form._replace(fields=_shown(form.fields)),
        filtered=bool(form) and any(form.fields.get(x) for x in _FILTERS),
    )


_FILTERS = (*("folder", "min_seconds", "max_seconds", "since", "until", "per_video"),)


def _shown(fields: Mapping[str, str]) -> dict[str, str]:
    """Values as a form shows them; escapes would be searched for the next time."""
    return {
        name: "".join(x for x in value if x.isprintable())
        for name, value in fields.items()
    }


def _card(index: VideoIndex, hit: Hit, form: Form | None) -> dict[str, Any]:
    """What the page shows of a hit."""
    return {
        **hit._asdict(),
        "video": printable(hit.video),
        "path": printable(str(index.root / hit.video)),
        "time": stretch_times(hit.start, hit.end),
        "copies": [printable(copy) for copy in hit.copies],
        "play": form.links.play(hit) if form and hit.exists else "",
        "like": form.links.like(hit) if form else "",
        "thumbnail": (form.links.thumbnail if form else _embedded(index))(hit),
    }


def _embedded(index: VideoIndex) -> Callable[[Hit], str]:
    def picture(hit: Hit) -> str:
        content = index.thumbnail(hit.moment)
        if content is None:
            return ""
        return "data:image/jpeg;base64," + base64.b64encode(content).decode()

    return picture


def stretch_times(start: float, end: float) -> str:
    """Both ends of a stretch, for example `0:07 - 0:15` with a dash."""
    return f"{clock(start)} \N{EN DASH} {clock(end)}"


def clock(seconds: float) -> str:
    """A time in a video: `0:07`, `12:30` or `1:02:03`."""
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
