"""Stanford Online Products (Song et al. 2016): 11,318 products train, 11,316 others test.

tensorflow-datasets keeps no names of files, so within a class images come in the order of their
bytes.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dcjax.core.errors import InputError
from dcjax.data.datasets.files import order_by_content, read_table
from dcjax.data.datasets.image_set import ImageArray, ImageSet, Splits, from_classes, no_images
from dcjax.data.datasets.request import Request
from dcjax.data.datasets.sources import Index, PublishedDataset
from dcjax.data.datasets.sources import load as load_published
from dcjax.data.downloads import Archive

_SUPER_CLASSES = (
    *("bicycle", "cabinet", "chair", "coffee_maker", "fan", "kettle"),
    *("lamp", "mug", "sofa", "stapler", "table", "toaster"),
)
_LISTS = {"train": "Ebay_train.txt", "query": "Ebay_test.txt"}
_ZIP = Archive(
    "Stanford_Online_Products.zip",
    url="ftp://cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
    size=3083860082,
    sha256="b04fa78210e69fab050ce73939550e1cd0f96890bdd98ec9fee732c3b756ef48",
)


def load(request: Request, *, source: str, complete: bool, download: bool) -> Splits:
    """Loads Stanford Online Products from its folder, or from tensorflow-datasets."""
    data = SOP if request.with_train else create_dataset(("query",))
    return load_published(data, request, source=source, complete=complete, download=download)


def read_list(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Returns paths, class ids and super-class ids [N], both from 1, of an Ebay list."""
    rows = read_table(path, 4, skip=1, numbers=[1, 2])
    classes, above = np.array([row[1:3] for row in rows], np.int64).reshape(-1, 2).T
    if not np.all((above >= 1) & (above <= len(_SUPER_CLASSES))):
        raise InputError(
            f"{path}: super-classes must be 1 to {len(_SUPER_CLASSES)}, got "
            f"{above.min()} to {above.max()}; extract the data set again."
        )
    return [row[3] for row in rows], classes, above


def _from_lists(first: Path, splits: Sequence[str]) -> Index:
    """Reads the lists beside the images, or in Info_Files/ with the images in images/."""
    lists = {split: first.parent / _LISTS[split] for split in splits}
    top = first.parent
    below = top.parent / "images" if top.name == "Info_Files" else top
    sets = {"train": no_images()}
    for split, path in lists.items():
        paths, classes, above = read_list(path)
        images = np.array([str(below / image) for image in paths], np.str_)
        sets[split] = _image_set(images, classes, above)
    return Index(Splits(**sets), lists)


def _from_records(folder: Path, splits: Sequence[str]) -> Index:
    from dcjax.data.datasets import prepared

    sets = {"train": no_images()}
    for split in splits:
        part = {"train": "train", "query": "test"}[split]
        images, features = prepared.read(folder, [part], ["class_id", "super_class_id"])
        sets[split] = _image_set(images, features["class_id"] + 1, features["super_class_id"] + 1)
    return Index(Splits(**sets), dict.fromkeys(_LISTS, folder))


def _image_set(images: ImageArray, classes: np.ndarray, above: np.ndarray) -> ImageSet:
    order = order_by_content(images, classes)
    names = {
        c: _SUPER_CLASSES[i - 1] for c, i in zip(classes.tolist(), above.tolist(), strict=True)
    }
    return from_classes(images[order], classes[order], super_classes=names)


def create_dataset(splits: Sequence[str]) -> PublishedDataset:
    """Returns where these splits of Stanford Online Products come from."""
    read, first = functools.partial(_from_lists, splits=splits), _LISTS[splits[0]]
    return PublishedDataset(
        "sop",
        home="https://cvgl.stanford.edu/projects/lifted_struct/",
        counts={"train": (59551, 11318), "query": (60502, 11316)},
        archives=(_ZIP,),
        layouts={f"{x}{first}": read for x in ("", "Stanford_Online_Products/", "Info_Files/")},
        builder="stanford_online_products",
        read_prepared=functools.partial(_from_records, splits=splits),
        prepare_from=(_ZIP,),
    )


SOP = create_dataset(tuple(_LISTS))
