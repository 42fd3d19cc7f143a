"""What is wrong with the images of a data set, in the order of the harm that it does."""

import enum
import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcjax.core import regular_files
from dcjax.data import headers, inspection
from dcjax.data.datasets import ImageSet, Splits, duplicates
from dcjax.data.inspection import Inspection

_START = 64  # bytes of a file that tell its format


class Harm(enum.IntEnum):
    """What a finding costs, the worst first."""

    TRAINING = 0  # a training cannot begin
    SCORES = 1  # scores are too good or too bad, or labels contradict one another
    IMAGES = 2  # images are not used
    NONE = 3  # nothing is lost that matters to most


class Kind(NamedTuple):
    """A kind of finding.

    Attributes:
      harm: what it costs.
      unit: what has it: "image", "class" or "file"; "" for the data set.
      what: what it is.
      remedy: what to do about it.
      counts_details: whether details are counted, rather than shown with each example.
    """

    harm: Harm
    unit: str
    what: str
    remedy: str
    counts_details: bool = False


class Finding(NamedTuple):
    """A finding about an image, or about a class, with an empty `image`; `detail` may be empty.

    Ignored files have neither a split nor a class.
    """

    kind: Kind
    split: str
    label: str
    image: str
    detail: str


_UNREADABLE = Kind(
    Harm.TRAINING,
    "image",
    "cannot be read",
    "replace or remove them, or leave them out by dataset.skip_unreadable=True",
)
_SAME_FILE = Kind(
    Harm.TRAINING,
    "image",
    "the same file is in two splits, in two classes or twice in a test",
    "take all but one out: a test image finds itself, or was trained on",
)
_IN_TWO_SPLITS = Kind(
    Harm.SCORES,
    "image",
    "the same picture is in two splits",
    "take it out of one: it makes the scores too good",
)
_TWICE_IN_TEST = Kind(
    Harm.SCORES,
    "image",
    "the same picture is there twice in a test",
    "take one out: a copy is found without fail",
)
_IN_TWO_CLASSES = Kind(
    Harm.SCORES, "image", "the same picture has two classes", "take it out of one of them"
)
_SIMILAR_CLASS = Kind(
    Harm.SCORES,
    "class",
    "the name is that of another class but for spaces, letter case or Unicode form",
    "rename one of them, if they are one class",
)
_UNANSWERED = Kind(
    Harm.SCORES,
    "image",
    "a test image without another image of its class to find",
    "add one, or take the image out; recall counts it as missed, but across cameras no score does",
)
_SKIPPED = Kind(
    Harm.IMAGES,
    "image",
    "cannot be read",
    "replace or remove them; dataset.skip_unreadable leaves them out",
)
_ALONE = Kind(
    Harm.IMAGES,
    "image",
    "the only training image of its class",
    "add another one; nothing is learned from it",
)
_NESTED = Kind(
    Harm.IMAGES,
    "file",
    "ignored, an image that is not directly in a class folder",
    "move it into one, or list the images in a table (configs/manifest.py)",
)
_OTHER_FORMAT = Kind(
    Harm.IMAGES,
    "file",
    "ignored, an image of a format that is not read",
    "convert it to JPEG or PNG",
    counts_details=True,
)
_NO_SUFFIX = Kind(
    Harm.IMAGES,
    "file",
    "ignored, an image whose name has no suffix",
    "add the suffix of its format",
    counts_details=True,
)
_TWICE_IN_TRAINING = Kind(
    Harm.NONE,
    "image",
    "the same picture is there twice in training",
    "nothing, if it may be drawn more often",
)
_SMALL = Kind(
    Harm.NONE,
    "image",
    "a side is shorter than dataset.crop",
    "nothing, if enlarging it will do; or a smaller crop",
)
_DEEP = Kind(
    Harm.NONE,
    "image",
    "more than 8 bits a channel",
    "nothing, if 8 of them will do: these are read",
)
_MISNAMED = Kind(
    Harm.NONE, "image", "the name says another format", "rename it, for the sake of other programs"
)
_HIDDEN = Kind(
    Harm.NONE,
    "file",
    "ignored, since the name begins with a dot",
    "nothing, or rename it if it is an image",
)
_NO_IMAGE = Kind(
    Harm.NONE,
    "file",
    "ignored, no image by its name",
    "nothing, or convert it if it is an image",
    counts_details=True,
)
_KINDS = (
    *(_UNREADABLE, _SAME_FILE),
    *(_IN_TWO_SPLITS, _TWICE_IN_TEST, _IN_TWO_CLASSES, _SIMILAR_CLASS, _UNANSWERED),
    *(_SKIPPED, _ALONE, _NESTED, _OTHER_FORMAT, _NO_SUFFIX),
    *(_TWICE_IN_TRAINING, _SMALL, _DEEP, _MISNAMED, _HIDDEN, _NO_IMAGE),
)
# Suffixes of images that other programs read.
_OTHER_FORMATS = frozenset(
    (".avif", ".heic", ".heif", ".tif", ".tiff", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".tga")
    + (".ico", ".svg", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raw")
)


def find(
    splits: Splits,
    inspected: Mapping[str, Inspection],
    *,
    crop: int,
    skips_unreadable: bool,
    ignored: Iterable[str] = (),
    across_cameras: bool = False,
) -> list[Finding]:
    """Returns all findings, the most harmful first; those of one kind stand together.

    Args:
      splits: the data set.
      inspected: the properties of the images of each of `splits.sets`.
      crop: the side that images are cropped to, in pixels.
      skips_unreadable: whether training leaves out images that cannot be read.
      ignored: files beside the images of the data set.
      across_cameras: whether a query finds no image of its class that its own camera took.
    """
    sets = splits.sets
    repeated = dict(duplicates.repeated_files(splits))
    found = [
        *_unreadable(sets, inspected, _SKIPPED if skips_unreadable else _UNREADABLE),
        *(_like(_SAME_FILE, sets, again, first) for again, first in repeated.items()),
        *_copies(sets, inspected, repeated, across_cameras),
        *_similar_classes(splits),
        *_singletons(splits, across_cameras),
        *_unusual(sets, inspected, crop),
        *map(_describe_ignored, ignored),
    ]
    order = {kind: number for number, kind in enumerate(_KINDS)}
    return sorted(found, key=lambda finding: order[finding.kind])


def _unreadable(
    sets: Mapping[str, ImageSet], inspected: Mapping[str, Inspection], kind: Kind
) -> Iterator[Finding]:
    for split, images in sets.items():
        for row, reason in inspected[split].reasons.items():
            yield _finding(kind, split, images, row, reason)


def _copies(
    sets: Mapping[str, ImageSet],
    inspected: Mapping[str, Inspection],
    repeated: Collection[duplicates.Place],
    across_cameras: bool,
) -> Iterator[Finding]:
    """Yields images with the pixels of an earlier image, but for repeated files.

    A query that is in the gallery too, as in VeRi-776, does no harm if its own view is left out.
    """
    places = [duplicates.Place(split, row) for split in sets for row in range(len(sets[split]))]
    prints = np.concatenate([inspected[split].fingerprints for split in sets])
    is_read = np.concatenate([inspected[split].is_read for split in sets])
    _, which, counts = np.unique(prints, return_inverse=True, return_counts=True)
    candidates = np.flatnonzero((counts[which] > 1) & is_read)
    candidates = candidates[np.argsort(which[candidates], kind="stable")]
    for _, alike in itertools.groupby(candidates.tolist(), key=lambda place: which[place]):
        first = places[next(alike)]
        pixels = inspection.pixels(sets[first.split], first.number)
        for again in (places[place] for place in alike):
            other = inspection.pixels(sets[again.split], again.number)
            if across_cameras and _is_left_out(sets, again, first):
                continue
            if again not in repeated and np.array_equal(pixels, other):
                yield _like(_kind_of_copy(sets, again, first), sets, again, first)


def _is_left_out(
    sets: Mapping[str, ImageSet], again: duplicates.Place, first: duplicates.Place
) -> bool:
    """Returns whether one is a query and the other in its gallery, of one class and camera."""
    one, other = sets[again.split], sets[first.split]
    if {again.split, first.split} != {"query", "gallery"}:
        return False
    if one.cameras is None or other.cameras is None:
        return False
    return bool(
        one.labels[again.number] == other.labels[first.number]
        and one.cameras[again.number] == other.cameras[first.number]
    )


def _kind_of_copy(
    sets: Mapping[str, ImageSet], again: duplicates.Place, first: duplicates.Place
) -> Kind:
    if again.split != first.split:
        return _IN_TWO_SPLITS
    labels = sets[first.split].labels
    if labels[again.number] != labels[first.number]:
        return _IN_TWO_CLASSES
    return _TWICE_IN_TRAINING if first.split == "train" else _TWICE_IN_TEST


def _like(
    kind: Kind, sets: Mapping[str, ImageSet], again: duplicates.Place, first: duplicates.Place
) -> Finding:
    """Returns the finding that an image is like an earlier one."""
    split, row = first
    original = f"like {sets[split].name(row)} ({split}, {_label(sets[split], row)})"
    return _finding(kind, again.split, sets[again.split], again.number, original)


def _similar_classes(splits: Splits) -> Iterator[Finding]:
    for again, first in duplicates.similar_classes(splits):
        both = duplicates.describe_similar(splits, again, first)
        yield Finding(_SIMILAR_CLASS, again.split, duplicates.class_name(splits, again), "", both)


def _singletons(splits: Splits, across_cameras: bool) -> Iterator[Finding]:
    """Yields images that have no other one of their class to be trained with, or to find."""
    train, query, gallery = splits.train, splits.query, splits.gallery
    for row in _rows_alone(train):
        yield _finding(_ALONE, "train", train, row, "")
    if splits.validation is not None:
        for row in _rows_alone(splits.validation):
            yield _finding(_UNANSWERED, "validation", splits.validation, row, "")
    missed = _rows_alone(query)
    if gallery is not None:
        missed = np.flatnonzero(~np.isin(query.labels, gallery.labels)).tolist()
    if across_cameras and query.cameras is not None:
        missed = _rows_seen_once(query, query if gallery is None else gallery)
    for row in missed:
        yield _finding(_UNANSWERED, splits.query_name, query, row, "")


def _rows_seen_once(query: ImageSet, gallery: ImageSet) -> list[int]:
    """Returns the queries of whose class no other camera took an image of the gallery."""
    cameras: dict[int, set[str]] = {}
    for label, camera in _views(gallery):
        cameras.setdefault(label, set()).add(camera)
    return [
        row
        for row, (label, camera) in enumerate(_views(query))
        if not cameras.get(label, set()) - {camera}
    ]


def _views(images: ImageSet) -> list[tuple[int, str]]:
    """Returns the class and the camera of each image; none where cameras are not known."""
    cameras = [] if images.cameras is None else images.cameras.tolist()
    return list(zip(images.labels.tolist(), cameras, strict=False))


def _rows_alone(images: ImageSet) -> list[int]:
    counts = images.class_sizes
    return np.flatnonzero(counts[images.labels] == 1).tolist()


def _unusual(
    sets: Mapping[str, ImageSet], inspected: Mapping[str, Inspection], crop: int
) -> Iterator[Finding]:
    """Yields images that are read, but perhaps not as their owner expects."""
    for split, images in sets.items():
        _, sizes, formats, _, bits, _ = seen = inspected[split]
        for row in np.flatnonzero(seen.is_read & (sizes.min(axis=1) < crop)).tolist():
            height, width = sizes[row]
            yield _finding(_SMALL, split, images, row, f"{width} x {height}")
        for row in np.flatnonzero(bits > 8).tolist():
            yield _finding(_DEEP, split, images, row, f"{bits[row]} bits")
        for row in _rows_misnamed(images, formats):
            yield _finding(_MISNAMED, split, images, row, f"it is {formats[row]}")


def _rows_misnamed(images: ImageSet, formats: npt.NDArray[np.str_]) -> list[int]:
    if images.in_memory or images.images.dtype.names is not None:
        return []
    named = np.array([headers.FORMATS.get(_suffix(path), "") for path in images.images])
    return np.flatnonzero((named != formats) & (named != "") & (formats != "")).tolist()


def _describe_ignored(path: str) -> Finding:
    """Returns why a file beside the images of a data set is none of them."""
    suffix, kind, detail = _suffix(path), _NO_IMAGE, ""
    if os.path.basename(path).startswith("."):
        kind = _HIDDEN
    elif suffix in headers.FORMATS:
        kind = _NESTED
    elif suffix in _OTHER_FORMATS:
        kind, detail = _OTHER_FORMAT, suffix
    elif not suffix and (detail := _format(path)):
        kind = _NO_SUFFIX
    else:
        detail = suffix or "no suffix"
    return Finding(kind, "", "", path, detail)


def _format(path: str) -> str:
    """Returns the format of an image by its first bytes, "" for any other file."""
    if regular_files.other_kind(path):
        return ""
    try:
        with open(path, "rb") as file:
            return headers.read(file.read(_START)).format
    except OSError:
        return ""


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _finding(kind: Kind, split: str, images: ImageSet, row: int, detail: str) -> Finding:
    return Finding(kind, split, _label(images, row), images.name(row), detail)


def _label(images: ImageSet, row: int) -> str:
    return images.class_names[images.labels[row]]
