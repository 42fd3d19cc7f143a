"""A gallery of coloured pictures with hostile names, searched by their mean colour."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
from report_content import HOSTILE_NAMES

from dcjax.data import thumbnails, untrusted
from dcjax.data.datasets import ImageSet
from dcjax.experiment.search import Images, Search
from dcjax.pages import search_server

NUM_IMAGES = 60
CLASSES = (*HOSTILE_NAMES, "caf\udce9")
MAX_PIXELS = 1_000_000
# Red and green in one subspace, blue in the other.
MASKS = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]], np.float32)


def embed(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the mean colours [n, 3], of length 1."""
    colors = np.array([np.mean(picture, axis=(0, 1)) for picture in pictures], np.float32)
    return colors / np.maximum(np.linalg.norm(colors, axis=1, keepdims=True), 1e-6)


def pixels() -> np.ndarray:
    """Returns the pictures of the gallery, uint8 [60, 70, 70, 3]."""
    colors = np.random.default_rng(0).integers(20, 256, (NUM_IMAGES, 1, 1, 3), np.uint8)
    return np.broadcast_to(colors, (NUM_IMAGES, 70, 70, 3)).copy()


def encode(picture: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """Returns the content of a file."""
    file = io.BytesIO()
    PIL.Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


def create_search() -> Search:
    """Returns the search of the gallery; one image in two has the first class."""
    numbers = np.arange(NUM_IMAGES)
    labels = np.where(numbers % 2, 0, numbers // 2 % len(CLASSES))
    names = [f"{CLASSES[label]}/{number}.png" for number, label in enumerate(labels)]
    pictures = ImageSet(pixels(), labels.astype(np.int32), CLASSES)
    images = Images("all colours", embed(pixels()), labels, CLASSES, names, pictures)
    return Search(images, embed, MASKS, "sum")


def create_gallery(found: Search) -> search_server.Gallery:
    """Returns the gallery for a server."""
    images = found.images

    def find(
        query: int | bytes, k: int, cluster: int | None, class_name: str
    ) -> list[tuple[int, float]]:
        if isinstance(query, bytes):
            picture = untrusted.decode(query, max_pixels=MAX_PIXELS)
            neighbors = found(picture, k, cluster=cluster, class_name=class_name)
        else:
            neighbors = found.like(query, k, cluster=cluster, class_name=class_name)
        return [(neighbor.number, neighbor.distance) for neighbor in neighbors]

    def thumbnail(number: int) -> bytes | None:
        return (
            None if number == NUM_IMAGES - 1 else thumbnails.create(_pictures, [number], size=64)[0]
        )

    _pictures = images.pictures
    return search_server.Gallery(
        title="<b>colours</b>",
        facts=("60 of them",),
        names=images.names,
        labels=images.labels,
        classes=images.classes,
        clusters=found.clusters,
        find=find,
        thumbnail=thumbnail,
        picture=thumbnail,
    )
