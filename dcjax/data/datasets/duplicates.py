"""Finds duplicates in a data set: files, and classes whose names differ only in spelling."""

from typing import NamedTuple

import numpy as np

from dcjax.core import naming
from dcjax.core.errors import InputError
from dcjax.data.datasets.files import STATE
from dcjax.data.datasets.image_set import Splits


class Place(NamedTuple):
    """An image or a class: the name of its set in `Splits.sets`, and its row or number there."""

    split: str
    number: int


def repeated_files(splits: Splits) -> list[tuple[Place, Place]]:
    """Returns pairs of images that are the same file, the later one first, where it matters.

    It matters in test images, where a query finds itself, across training and test, and where the
    two have different classes. A training image may be listed again, to be drawn more often.
    """
    sets = {name: images for name, images in splits.sets.items() if not images.in_memory}
    if not sets:
        return []
    state = np.concatenate([images.file_states for images in sets.values()])
    split = np.repeat(np.arange(len(sets)), [len(images) for images in sets.values()])
    row = np.concatenate([np.arange(len(images)) for images in sets.values()])
    label = np.concatenate([images.labels for images in sets.values()])
    # The sort is stable, so of equal files the first image comes first.
    order = np.lexsort([state[field] for field in STATE])
    state = state[order]
    is_known = state["inode"] != 0  # neither absent nor on a file system without numbers
    is_repeated = np.append(False, (state[1:] == state[:-1]) & is_known[1:])
    position = np.arange(len(state))
    first = order[np.maximum.accumulate(np.where(is_repeated, 0, position))][is_repeated]
    again = order[is_repeated]
    in_training = np.array(list(sets))[split] == "train"
    is_allowed = in_training[first] & in_training[again] & (label[first] == label[again])
    pairs = np.stack([again, first], axis=1)[~is_allowed]
    keys = list(sets)
    return [
        (Place(keys[split[i]], int(row[i])), Place(keys[split[j]], int(row[j])))
        for i, j in pairs[np.argsort(pairs[:, 0])].tolist()
    ]


def check_files(splits: Splits) -> None:
    """Checks that no file is in two splits, in two classes, or twice in a test set.

    Raises:
      InputError: naming the first two images that are one file.
    """
    if pairs := repeated_files(splits):
        again, first = (_describe(splits, place) for place in pairs[0])
        raise InputError(
            f"Require each file in one split and with one class, and each test image once; got "
            f"{len(pairs)} images that are the file of another one, as {again}, which is {first}. "
            "Remove one of each two: a test image finds itself or was trained on, and the scores "
            "are too good; --mode=check_data lists all."
        )


def similar_classes(splits: Splits) -> list[tuple[Place, Place]]:
    """Returns pairs of classes whose names differ only in spelling, the later one first.

    Spelling is spaces, invisible characters, letter case and Unicode form.
    """
    sets = {name: images for name, images in splits.sets.items() if name != "gallery"}
    places = [Place(name, i) for name, x in sets.items() for i in range(x.num_classes)]
    by_name: dict[str, list[Place]] = {}
    for place in places:
        by_name.setdefault(naming.simplify(class_name(splits, place)), []).append(place)
    return [
        (again, first)
        for first, *others in by_name.values()
        for again in others
        if class_name(splits, again) != class_name(splits, first)
    ]


def describe_similar(splits: Splits, again: Place, first: Place) -> str:
    """Returns the names of two classes, escaped to ASCII."""
    return " and ".join(
        f"{class_name(splits, place)!a} ({place.split})" for place in (first, again)
    )


def class_name(splits: Splits, place: Place) -> str:
    """Returns the name of a class."""
    images = splits.sets[place.split]
    return images.class_names[place.number]


def _describe(splits: Splits, place: Place) -> str:
    images = splits.sets[place.split]
    label = images.class_names[images.labels[place.number]]
    return naming.escape(f"{images.name(place.number)} ({place.split}, class {label})")
