"""In-shop Clothes Retrieval (Liu et al. 2016): 3,997 items train; of 3,985 others query, gallery.

The list gives its number of rows, a header, then "path item train|query|gallery" per line. The
super-class of an item is the folder of its images, as WOMEN/Dresses.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dcjax.core.errors import InputError
from dcjax.data.datasets.files import read_table, read_text
from dcjax.data.datasets.image_set import ImageArray, ImageSet, Splits, from_classes
from dcjax.data.datasets.request import Request
from dcjax.data.datasets.sources import Index, PublishedDataset
from dcjax.data.datasets.sources import load as load_published

PARTS = ("train", "query", "gallery")
_LIST = "list_eval_partition.txt"


def load(request: Request, *, source: str, complete: bool, download: bool) -> Splits:
    """Loads In-shop from its folder, or from what `builders.Inshop` has prepared."""
    read = functools.partial(_from_records, parts=PARTS if request.with_train else PARTS[1:])
    data = dataclasses.replace(INSHOP, read_prepared=read)
    return load_published(data, request, source=source, complete=complete, download=download)


def read_list(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Returns paths, item ids str[N] and parts str[N] (train, query or gallery)."""
    rows = read_table(path, 3, skip=2)
    announced = read_text(path).partition("\n")[0].strip()
    if not rows or announced != str(len(rows)):
        raise InputError(
            f"{path}: the first line must be the number of rows, got {announced} and {len(rows)} "
            "rows; copy the list again, or correct that line."
        )
    for row in rows:
        if row[2] not in PARTS:
            raise InputError(f"{path}: {row[0]} must be in one of {PARTS}, got {row[2]!r}.")
    return [r[0] for r in rows], np.array([r[1] for r in rows]), np.array([r[2] for r in rows])


def read_categories(paths: list[str]) -> list[str]:
    """Returns the folders between the first and the item's, as WOMEN/Dresses, of each image."""
    return ["/".join(path.split("/")[1:-2]) for path in paths]


def locate(list_path: Path, paths: list[str]) -> list[str]:
    """Returns where the images of a list are: below Img/ or beside its folder or it."""
    top = list_path.parent.parent if list_path.parent.name == "Eval" else list_path.parent
    # Looks for a folder of images, not for "Img": some file systems take "img" for "Img". Any will
    # do, since those to train on need not be there.
    folders = dict.fromkeys(Path(path).parent for path in paths)
    below = (base for base in (top / "Img", top) if any((base / x).is_dir() for x in folders))
    base = next(below, top)
    return [str(base / path) for path in paths]


def _from_list(path: Path) -> Index:
    paths, items, parts = read_list(path)
    images = np.array(locate(path, paths), np.str_)
    return _create_index(images, items, parts, np.array(read_categories(paths)), path)


def _from_records(folder: Path, parts: Sequence[str] = PARTS) -> Index:
    from dcjax.data.datasets import prepared

    read = {part: prepared.read(folder, [part], ["item", "category"]) for part in parts}
    items, categories = (
        np.concatenate([features[name] for _, features in read.values()])
        for name in ("item", "category")
    )
    return _create_index(
        np.concatenate([images for images, _ in read.values()]),
        items,
        np.repeat(parts, [len(images) for images, _ in read.values()]),
        categories,
        folder,
    )


def _create_builder(**options: Any) -> Any:
    from dcjax.data.datasets import builders

    return builders.Inshop(_read_rows, **options)


def _read_rows(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Returns what is to be prepared of each part."""
    path = INSHOP.require(folder)
    names, items, parts = read_list(path)
    rows: dict[str, list[dict[str, str]]] = {part: [] for part in PARTS}
    columns = (locate(path, names), items.tolist(), read_categories(names))
    for part, image, item, category in zip(parts.tolist(), *columns, strict=True):
        rows[part].append({"image": image, "item": item, "category": category})
    return rows


def _create_index(
    images: ImageArray, items: np.ndarray, parts: np.ndarray, categories: np.ndarray, where: Path
) -> Index:
    is_train, above = parts == "train", _super_classes(items, categories)

    def take(part: str) -> ImageSet:
        among = items[is_train == (part == "train")]
        rows = parts == part
        return from_classes(images[rows], items[rows], among=among, super_classes=above)

    return Index(Splits(**{part: take(part) for part in PARTS}), dict.fromkeys(PARTS, where))


def _super_classes(items: np.ndarray, categories: np.ndarray) -> dict[str, str]:
    """Returns the category of most images of each item, the first by name of several."""
    pairs = Counter(sorted(zip(items.tolist(), categories.tolist(), strict=True)))
    # most_common keeps the order of equal counts; the last pair of an item is the one that stays.
    return {item: category for (item, category), _ in reversed(pairs.most_common())}


INSHOP = PublishedDataset(
    "inshop",
    home="http://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
    counts={"train": (25882, 3997), "query": (14218, 3985), "gallery": (12612, 3985)},
    archives=(),
    layouts={f"Eval/{_LIST}": _from_list, _LIST: _from_list},
    builder="inshop",
    read_prepared=_from_records,
    create_builder=_create_builder,
)
