"""The addresses of the server: page, clips, pictures, and the JSON interface."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi import Query as Parameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from data_pipelines.console.errors import UserError
from data_pipelines.console.printable import printable
from vop_jax.index.page import stretch_times
from vop_jax.pages.render import TEMPLATES, render
from vop_jax.serving.previews import PreviewError
from vop_jax.serving.requests import (
    Asked,
    Stretch,
    address,
    asked,
    nothing_else,
    stretch,
    video_path,
)
from vop_jax.serving.service import Service
from vop_jax.serving.slots import BusyError

# Seconds to come back after, if there is no place.
_RETRY = "1"
# What a person sees as a whole, also where it is an error.
_PAGES = ("/", "/play")
_IMMUTABLE = {"Cache-Control": "private, max-age=86400, immutable"}
# What is right now, and may be gone or another thing the next time.
_FRESH = {"Cache-Control": "no-store"}


def make_app(service: Service) -> FastAPI:
    """The ASGI application."""
    # FastAPI's own pages load their scripts from elsewhere.
    app = FastAPI(title="Search in a folder of videos", docs_url=None, redoc_url=None)
    _add_page(app, service)
    _add_clips(app, service)
    _add_interface(app, service)
    _add_errors(app)
    return app


def _add_page(app: FastAPI, service: Service) -> None:
    script = (TEMPLATES / "search.js").read_bytes()

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page(request: Request, what: Annotated[Asked, Depends(asked)]) -> Any:
        given = {"q", "like"} & {*request.query_params}
        made = await service.searches.run(service.page, what, bool(given))
        return HTMLResponse(made[1], made[0], headers=_FRESH)

    @app.get("/search.js", include_in_schema=False)
    async def javascript() -> Any:
        return Response(script, media_type="text/javascript")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Any:
        # Browsers ask for it on their own.
        return Response(status_code=204)


def _add_clips(app: FastAPI, service: Service) -> None:
    stretched = [Depends(nothing_else("video", "start", "end", "best"))]
    video_alone = [Depends(nothing_else("video"))]
    moment_alone = [Depends(nothing_else("moment"))]

    @app.get("/play", include_in_schema=False, dependencies=stretched)
    async def play(what: Annotated[Stretch, Depends(stretch)]) -> Any:
        values: dict[str, Any] = {"problem": "", "source": "", "is_preview": False}
        status, shown = 200, what.around_best()
        try:
            clip = await service.clip(shown)
            values["is_preview"] = clip.is_preview
            if clip.is_preview:
                source = address("/preview", **shown._asdict())
            else:
                # A media fragment (W3C): where a player begins and pauses.
                shown = shown._replace(end=what.end)
                source = address("/file", video=what.video)
                source += f"#t={shown.start:.3f},{shown.end:.3f}"
            values["source"] = source
        except PreviewError as error:
            status, values["problem"] = 422, printable(str(error))
        page = render(
            "play.html",
            video=printable(what.video),
            time=stretch_times(shown.start, shown.end),
            file=address("/file", video=what.video),
            **values,
        )
        return HTMLResponse(page, status, headers=_FRESH)

    @app.head("/preview", include_in_schema=False, dependencies=stretched)
    @app.get(
        "/preview",
        summary="A stretch of a video as mp4, at most 30 seconds",
        dependencies=stretched,
    )
    async def preview(what: Annotated[Stretch, Depends(stretch)]) -> FileResponse:
        clip = await service.clip(what.around_best())
        return _file(clip.path, clip.media_type)

    @app.head("/file", include_in_schema=False, dependencies=video_alone)
    @app.get("/file", summary="A video's file", dependencies=video_alone)
    async def file(video: Annotated[str, Depends(video_path)]) -> FileResponse:
        path = await service.reads.run(service.file, video)
        # Never a type that a browser runs: the file may hold anything.
        media_type = _TYPES.get(path.suffix.lower(), "application/octet-stream")
        return _file(path, media_type)

    @app.get(
        "/thumbnail",
        summary="The picture of a moment, by its id",
        dependencies=moment_alone,
    )
    async def thumbnail(
        moment: Annotated[
            str, Parameter(max_length=200, description="id as in the answers")
        ],
    ) -> Response:
        picture = await service.reads.run(service.index.thumbnail, moment)
        if picture is None:
            raise HTTPException(404, "there is no such moment in the index")
        return Response(picture, media_type="image/jpeg", headers=_IMMUTABLE)


_TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo",
}


def _file(path: Path, media_type: str) -> FileResponse:
    """A file by byte ranges.

    Raises:
        HTTPException: it has vanished.
    """
    try:
        about = os.stat(path)
    except OSError as error:
        raise HTTPException(404, f"the file is gone ({error.strerror})") from None
    return FileResponse(
        path,
        media_type=media_type,
        stat_result=about,
        headers={"Cache-Control": "private, no-cache"},
    )


def _add_interface(app: FastAPI, service: Service) -> None:
    only = [Depends(nothing_else())]

    @app.get("/api/search", summary="Search, by text or by a moment", dependencies=only)
    async def search(what: Annotated[Asked, Depends(asked)]) -> Response:
        """The answer is what search query --json prints.

        The parameter q may be given several times; each is a query of its own.
        """
        if not what.queries:
            raise HTTPException(422, "q: describe what happens in the video")

        def answer() -> str:
            found = service.as_json(service.index, service.search(what))
            # Escapes everything that is not ASCII, so that no encoding matters.
            return json.dumps(found)

        content = await service.searches.run(answer)
        return Response(content, media_type="application/json", headers=_FRESH)

    @app.get("/api", include_in_schema=False)
    async def interface() -> Any:
        described = app.openapi()
        operations = [
            (path, method.upper(), about)
            for path, methods in described["paths"].items()
            for method, about in methods.items()
        ]
        return HTMLResponse(render("interface.html", operations=operations))


def _add_errors(app: FastAPI) -> None:
    def says(
        request: Request,
        status: int,
        text: str,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """One line, as JSON or in a page where that is what was asked for."""
        text = printable(text)
        if request.url.path.startswith("/api/"):
            content = json.dumps({"error": text})
            kind = "application/json"
            return Response(content, status, headers=headers, media_type=kind)
        if request.url.path in _PAGES:
            return HTMLResponse(render("problem.html", problem=text), status, headers)
        return PlainTextResponse(text, status, headers)

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> Response:
        text = f"{error}; try again"
        return says(request, 503, text, {"Retry-After": _RETRY})

    @app.exception_handler(UserError)
    async def mistake(request: Request, error: UserError) -> Response:
        return says(request, 503, str(error))

    @app.exception_handler(PreviewError)
    async def unplayable(request: Request, error: PreviewError) -> Response:
        return says(request, 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        # Where it was ("query"), its name, and the number of a value of several.
        name = first["loc"][min(1, len(first["loc"]) - 1)]
        return says(request, 422, f"{name}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        text = str(error.detail)
        if error.status_code == 404 and text == "Not Found":
            text = "there is no such page; the search is at /"
        # Such as which methods are allowed.
        return says(request, error.status_code, text, error.headers)
