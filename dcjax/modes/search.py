"""Serves the search page of a run, see docs/search.md."""

import functools
import socket

import jax
import numpy as np
from ml_collections import ConfigDict

from dcjax.core.console import Console
from dcjax.core.errors import SettingError
from dcjax.data import thumbnails, untrusted
from dcjax.experiment import embedder, embedding
from dcjax.experiment.search import Search
from dcjax.pages import guard, search_server, serving
from dcjax.runs import checkpoints, workdirs
from dcjax.runs.preemption import Stopped, StopRequest

_MAX_PIXELS = 50_000_000  # of a picture that is sent
_THUMBNAIL, _FULL_SIZE = 256, 4096  # pixels of the longer side


def search(
    workdir: str,
    config: ConfigDict | None,
    *,
    gallery: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    trust_custom_code: bool = False,
) -> None:
    """Serves the search page until SIGINT or SIGTERM.

    Args:
      workdir: of the run, or one checkpoint in it.
      config: replaces the saved one, see `embedder.load`.
      gallery: what is searched, see `Embedder.search`; None: the test images of the run.
      host: name or address to listen at.
      port: 0: any free one.
      trust_custom_code: whether to import a custom backbone that the run names.

    Raises:
      InputError: if the run or the gallery is not as required.
      FileError: if something is missing, cannot be written, or the port is in use.
    """
    if jax.process_count() > 1:
        raise SettingError(
            f"--mode=search runs in one process, got {jax.process_count()} processes; start it on "
            "one host alone."
        )
    checkpoints.require([workdir])
    console = Console()
    # The address first, since embedding may take long.
    with serving.bind(host, port) as listener, StopRequest() as stop:
        try:
            stop.allow()
            run = embedder.restore(workdir, config, trust_custom_code=trust_custom_code)
            found = run.search(gallery, stop=stop, console=console)
            title = workdirs.absolute(str(workdirs.locate(workdir)[0])).name
            facts = (f"{found.images.title}, checkpoint {run.checkpoint} {run.place}",)
            described = _describe(found, title, facts, run.config.dataset.max_pixels)
            # Compiles what the page asks for first.
            if run.num_features:
                found.like(0, search_server.NUM_NEIGHBORS)
            else:
                side = run.config.dataset.crop
                found(np.zeros((side, side, 3), np.uint8), search_server.NUM_NEIGHBORS)
            stop.defer()
        except Stopped:
            stop.defer()
            console.print_line(embedding.stop_message(stop.requested))
            return
        _print_address(console, listener, host)
        serving.serve(search_server.create(described, host=host), listener)


def _describe(
    found: Search, title: str, facts: tuple[str, ...], max_pixels: int
) -> search_server.Gallery:
    """Returns what the page needs to know; the limit on pixels is that of the gallery's files."""
    images = found.images

    def find(
        query: int | bytes, k: int, cluster: int | None, class_name: str
    ) -> list[tuple[int, float]]:
        if isinstance(query, bytes):
            picture = untrusted.decode(query, max_pixels=_MAX_PIXELS)
            neighbors = found(picture, k, cluster=cluster, class_name=class_name)
        else:
            neighbors = found.like(query, k, cluster=cluster, class_name=class_name)
        return [(neighbor.number, neighbor.distance) for neighbor in neighbors]

    def read(number: int, size: int, *, enlarges: bool) -> bytes | None:
        if images.pictures is None:
            return None
        (picture,) = thumbnails.create(
            images.pictures,
            [number],
            size=size,
            enlarges=enlarges,
            max_pixels=max_pixels,
            num_threads=1,
        )
        return picture

    return search_server.Gallery(
        title=title,
        facts=facts,
        names=images.names,
        labels=images.labels,
        classes=images.classes,
        clusters=found.clusters,
        find=find,
        thumbnail=functools.partial(read, size=_THUMBNAIL, enlarges=True),
        picture=functools.partial(read, size=_FULL_SIZE, enlarges=False),
    )


def _print_address(console: Console, listener: socket.socket, host: str) -> None:
    name = f"[{host}]" if ":" in host else host
    console.print_line(f"search    http://{name}:{listener.getsockname()[1]}/ until Ctrl-C")
    if host.lower() not in guard.LOOPBACK:
        console.print_line(
            f"warning   whoever can reach {host} can search, and see all pictures and names of the "
            "gallery; no password is asked, and nothing is encrypted"
        )
