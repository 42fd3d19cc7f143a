"""The search page and its API, as an app that a server runs.

The gallery is given by plain parts; a search is a function. One search runs at a time, since each
uses all devices; a few wait, and others are asked to try again.
"""

import asyncio
import concurrent.futures
import dataclasses
import itertools
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from dcjax.core import streams
from dcjax.core.errors import DcjaxError
from dcjax.core.streams import Stream
from dcjax.pages import templating
from dcjax.pages.guard import Guard, Limits, refuse

WHOLE = "embedding"  # the space that is no cluster's
MAX_NEIGHBORS = 1000
NUM_NEIGHBORS = 24
_MAX_SEARCHES = 16  # that are received, wait or run
_MAX_CLASSES = 50  # that are listed for a text
_KEPT_THUMBNAILS = 2**26  # bytes, about 5,000 pictures
_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript"}
_STATIC = ("style.css", "search.css", "page.js", "search.js")


class Parameter(NamedTuple):
    """A parameter of a search, as the page of the API describes it."""

    name: str
    values: str
    default: str
    meaning: str


PARAMETERS = (
    Parameter("k", f"1 to {MAX_NEIGHBORS}", str(NUM_NEIGHBORS), "How many neighbours."),
    Parameter(
        "space",
        f"{WHOLE}, or the number of a cluster",
        WHOLE,
        "What is compared: the whole embedding, or the subspace of a cluster.",
    ),
    Parameter("class", "name of a class", "", "The class that is searched; all without it."),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """The images that are searched.

    Attributes:
      title: of the page.
      facts: sentences about the run and the gallery.
      names: of the images, G of them; they may hold any characters.
      labels: the number of each one's class, [G].
      classes: their names; none without labels.
      clusters: numbers of the clusters with a subspace.
      find: returns numbers and distances of the nearest images, for a number of the gallery or the
        content of a file, k, a cluster or None, and a class or ""; raises InputError with a reason.
      thumbnail: returns an image, made small, as WebP, None if it cannot be read.
      picture: returns an image in full size, as WebP, None if it cannot be read.
    """

    title: str
    facts: Sequence[str]
    names: Sequence[str]
    labels: np.ndarray
    classes: Sequence[str]
    clusters: Sequence[int]
    find: Callable[[int | bytes, int, int | None, str], Sequence[tuple[int, float]]]
    thumbnail: Callable[[int], bytes | None]
    picture: Callable[[int], bytes | None]


def create(gallery: Gallery, *, host: str = "127.0.0.1", limits: Limits | None = None) -> Guard:
    """Returns the app.

    Args:
      gallery: what is searched.
      host: that the server listens at, see `Guard`.
      limits: of requests; None: those of `Limits`.
    """
    limits = limits or Limits()
    pages = _Pages(gallery, limits)
    routes = [
        Route("/", pages.page),
        Route("/docs", pages.docs),
        Route("/search", pages.search, methods=["GET", "POST"]),
        Route("/sample", pages.sample),
        Route("/classes", pages.list_classes),
        Route("/images/{number}", pages.thumbnail),
        Route("/images/{number}/full", pages.picture),
        *(Route(f"/static/{name}", _static(name)) for name in _STATIC),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: _answer_refusal,
            ClientDisconnect: _answer_nobody,
            Exception: _answer_bug,
        },
    )
    app.router.redirect_slashes = False
    return Guard(app, host=host, limits=limits)


class _Query(NamedTuple):
    """What is searched for, and how."""

    number: int | None
    k: int
    space: str
    cluster: int | None
    class_name: str


class _Pages:
    """The answers to requests."""

    def __init__(self, gallery: Gallery, limits: Limits) -> None:
        self._gallery = gallery
        self._limits = limits
        self._classes = [_readable(name) for name in gallery.classes]
        self._class_numbers = {name: number for number, name in enumerate(self._classes)}
        self._folded = [name.casefold() for name in self._classes]
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "search")
        self._readers = concurrent.futures.ThreadPoolExecutor(2, "thumbnails")
        self._num_searches = 0
        self._samples = itertools.count()
        # Thumbnails of another gallery, at the same address earlier, have other tags.
        self._tag = secrets.token_hex(6)
        self._thumbnail = _remember(gallery.thumbnail, _KEPT_THUMBNAILS)

    async def page(self, request: Request) -> Response:
        """Answers with the search page, whose script reads the parameters of the address."""
        del request
        return _html(
            "search.html",
            gallery=self._gallery,
            num_images=len(self._gallery.names),
            num_classes=len(self._classes),
            num_neighbors=NUM_NEIGHBORS,
            whole=WHOLE,
            max_bytes=self._limits.max_bytes,
        )

    async def docs(self, request: Request) -> Response:
        """Answers with the description of the API."""
        return _html(
            "search_docs.html",
            gallery=self._gallery,
            address=f"http://{request.headers['host']}",
            parameters=PARAMETERS,
            max_bytes=self._limits.max_bytes,
        )

    async def search(self, request: Request) -> Response:
        """Answers with the neighbours of a picture, or of an image of the gallery."""
        if self._num_searches >= _MAX_SEARCHES:
            return refuse(503, "Other searches are waiting; try again soon.")
        self._num_searches += 1
        try:
            return await self._search(request)
        finally:
            self._num_searches -= 1

    async def _search(self, request: Request) -> Response:
        given = request.query_params.multi_items()
        picture = None
        if request.method == "POST":
            picture, fields = await _read_picture(request)
            given += fields
        query = self._parse(given, needs_image=picture is None)
        searched = picture if query.number is None else query.number
        start = time.perf_counter()
        try:
            found = await self._compute(
                self._gallery.find, searched, query.k, query.cluster, query.class_name
            )
        except DcjaxError as error:
            raise HTTPException(422, str(error)) from None
        return JSONResponse(
            {
                "query": {} if query.number is None else self._describe(query.number),
                "k": query.k,
                "space": query.space,
                "class": _readable(query.class_name),
                "neighbors": [
                    {**self._describe(number), "distance": distance} for number, distance in found
                ],
                "message": "" if found else self._nothing_found(query),
                "seconds": time.perf_counter() - start,
            }
        )

    async def _compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a function after those that wait; a client that has left does not end it."""
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._worker, function, *arguments))

    def _parse(self, given: Sequence[tuple[str, str]], *, needs_image: bool) -> _Query:
        names = [parameter.name for parameter in PARAMETERS]
        values = _unique(given, ["image", *names] if needs_image else names)
        number = None
        if needs_image:
            last = len(self._gallery.names) - 1
            number = _whole(values.get("image", ""), "image", 0, last)
        return _Query(
            number,
            _whole(values.get("k") or str(NUM_NEIGHBORS), "k", 1, MAX_NEIGHBORS),
            *self._parse_space(values.get("space") or WHOLE),
            self._parse_class(values.get("class", "")),
        )

    def _parse_space(self, space: str) -> tuple[str, int | None]:
        clusters = {str(cluster): cluster for cluster in self._gallery.clusters}
        if space != WHOLE and space not in clusters:
            known = ", ".join([WHOLE, *clusters])
            raise HTTPException(400, f"Require a space ({known}), got {space[:100]!r}.")
        return space, clusters.get(space)

    def _parse_class(self, name: str) -> str:
        if name and name not in self._class_numbers:
            raise HTTPException(400, f"The gallery has no class {name[:100]!r}.")
        return self._gallery.classes[self._class_numbers[name]] if name else ""

    def _nothing_found(self, query: _Query) -> str:
        kind = f" of the class {_readable(query.class_name)}" if query.class_name else ""
        other = "other " if query.number is not None else ""
        return f"The gallery has no {other}image{kind}."

    def _describe(self, number: int) -> dict[str, Any]:
        labels = self._gallery.labels
        return {
            "image": number,
            "name": _readable(self._gallery.names[number]),
            "class": self._classes[labels[number]] if self._classes else "",
        }

    async def sample(self, request: Request) -> Response:
        """Answers with random images of the gallery, or of one class."""
        values = _unique(request.query_params.multi_items(), ["k", "class"])
        k = _whole(values.get("k") or str(NUM_NEIGHBORS), "k", 1, MAX_NEIGHBORS)
        class_name = self._parse_class(values.get("class", ""))
        rows = np.arange(len(self._gallery.names))
        if class_name:
            label = self._gallery.classes.index(class_name)
            rows = np.flatnonzero(self._gallery.labels == label)
        generator = streams.generator(0, Stream.SEARCH_PAGE, next(self._samples))
        chosen = generator.choice(rows, min(k, len(rows)), replace=False)
        kind = f" of the class {_readable(class_name)}" if class_name else ""
        return JSONResponse(
            {
                "images": [self._describe(number) for number in chosen.tolist()],
                "message": "" if len(rows) else f"The gallery has no image{kind}.",
            }
        )

    async def list_classes(self, request: Request) -> Response:
        """Answers with the classes whose names hold a text, those first that start with it."""
        values = _unique(request.query_params.multi_items(), ["containing"])
        text = values.get("containing", "").casefold()
        found = [number for number, name in enumerate(self._folded) if text in name]
        found.sort(key=lambda number: not self._folded[number].startswith(text))
        names = [self._classes[number] for number in found[:_MAX_CLASSES]]
        return JSONResponse({"classes": names, "count": len(found)})

    async def thumbnail(self, request: Request) -> Response:
        """Answers with an image of the gallery; without content if it cannot be read now."""
        answer = await self._image(request, self._thumbnail)
        return answer or Response(status_code=204)  # no error, which browsers would log

    async def picture(self, request: Request) -> Response:
        """Answers with an image of the gallery in full size."""
        answer = await self._image(request, self._gallery.picture)
        return answer or refuse(404, "The image cannot be read now.")

    async def _image(
        self, request: Request, read: Callable[[int], bytes | None]
    ) -> Response | None:
        """Answers with an image, None if it cannot be read now."""
        last = len(self._gallery.names) - 1
        number = _whole(request.path_params["number"], "image", 0, last, status=404)
        headers = {"ETag": f'"{self._tag}-{number}"', "Cache-Control": "private, no-cache"}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        loop = asyncio.get_running_loop()
        picture = await loop.run_in_executor(self._readers, read, number)
        if picture is None:
            return None
        return Response(picture, media_type="image/webp", headers=headers)


async def _read_picture(request: Request) -> tuple[bytes, list[tuple[str, str]]]:
    """Returns the content of the picture, and the fields of a form beside it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        return await request.body(), []
    async with request.form(max_files=1, max_fields=len(PARAMETERS)) as form:
        items = form.multi_items()
        files = [value for name, value in items if isinstance(value, UploadFile)]
        if [name for name, value in items if isinstance(value, UploadFile)] != ["image"]:
            raise HTTPException(400, "Require one file, in the field image of the form.")
        fields = [(name, value) for name, value in items if isinstance(value, str)]
        return await files[0].read(), fields


def _unique(given: Sequence[tuple[str, str]], known: Sequence[str]) -> dict[str, str]:
    """Returns parameters by name, each of which is known and given once."""
    values: dict[str, str] = {}
    for name, value in given:
        if name not in known:
            raise HTTPException(
                400, f"Require the parameters {', '.join(known)}, got {name[:100]!r}."
            )
        if name in values:
            raise HTTPException(400, f"Require the parameter {name} once, got it twice.")
        values[name] = value
    return values


def _whole(text: str, name: str, low: int, high: int, *, status: int = 400) -> int:
    is_number = text.isascii() and text.isdecimal() and len(text) < 16
    if not is_number or not low <= int(text) <= high:
        raise HTTPException(
            status, f"Require {name}, a whole number from {low} to {high}, got {text[:100]!r}."
        )
    return int(text)


def _readable(name: str) -> str:
    """Returns a name with bytes that are not UTF-8 escaped: JSON and HTML cannot hold them."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _remember(
    function: Callable[[int], bytes | None], max_bytes: int
) -> Callable[[int], bytes | None]:
    """Returns the function with its last results kept, up to some bytes."""
    kept: dict[int, bytes] = {}
    size = 0

    def get(number: int) -> bytes | None:
        nonlocal size
        if (known := kept.get(number)) is not None:
            return known
        picture = function(number)
        if picture is not None and number not in kept:
            kept[number] = picture
            size += len(picture)
            while size > max_bytes:
                size -= len(kept.pop(next(iter(kept))))
        return picture

    return get


def _html(template: str, **values: Any) -> Response:
    return HTMLResponse(
        templating.render(template, **values), headers={"Cache-Control": "no-cache"}
    )


def _static(name: str) -> Callable[[Request], Any]:
    kind = _MEDIA_TYPES[name[name.rindex(".") :]]
    content = templating.static_text(name)

    async def answer(request: Request) -> Response:
        del request
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return answer


async def _answer_refusal(request: Request, error: Exception) -> Response:
    del request
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _answer_nobody(request: Request, error: Exception) -> Response:
    del request, error
    return Response(status_code=400)  # the client has left


async def _answer_bug(request: Request, error: Exception) -> Response:
    del request
    traceback.print_exception(error, file=sys.stderr)
    return JSONResponse({"error": "The server has failed; its terminal shows why."}, 500)
