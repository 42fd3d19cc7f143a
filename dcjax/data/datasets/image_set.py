"""Image sets: images with integer labels, in splits whose classes differ."""

import dataclasses
import functools
import itertools
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dcjax.core import naming
from dcjax.core.errors import InputError
from dcjax.data.datasets import files

ImageArray = npt.NDArray[Any]  # see `ImageSet.images`

# The label that Market-1501 gives images that are no fair answer to any query: half a person, say.
JUNK = "-1"

_PART = ("file", "offset", "length")


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their classes.

    Attributes:
      images: str[N], paths of encoded images; or `file_parts`[N], encoded images within larger
        files; or uint8[N, H, W, 1 or 3], the pixels themselves; or float32[N, F], features in
        their place.
      labels: int32[N], each in 0..num_classes-1.
      class_names: One name per label.
      super_classes: The name of each class's super-class, None where there are none.
      cameras: str[N], the name of the camera that took each image; None where they are not known.
      names: Of features, what they are of, such as a path, str[N]; None where it is not known.
    """

    images: ImageArray
    labels: npt.NDArray[np.int32]
    class_names: tuple[str, ...]
    super_classes: tuple[str, ...] | None = None
    cameras: npt.NDArray[np.str_] | None = None
    names: npt.NDArray[np.str_] | None = None

    def __post_init__(self) -> None:
        """Checks shapes, types and the range of the labels."""
        shape, kind = self.images.shape, self.images.dtype
        is_pixels = kind == np.uint8 and len(shape) == 4 and min(shape[1:]) and shape[3] in (1, 3)
        is_encoded = len(shape) == 1 and (kind.kind == "U" or kind.names == _PART)
        is_features = kind == np.float32 and len(shape) == 2
        if not (is_pixels or is_encoded or is_features):
            raise InputError(
                "images must be str[N], file parts [N], uint8[N, H, W, 1 or 3] or float32[N, F], "
                f"got {kind} of shape {shape}."
            )
        if self.labels.dtype != np.int32 or self.labels.shape != shape[:1]:
            raise InputError(
                f"labels must be int32 of shape {shape[:1]}, one per image, got "
                f"{self.labels.dtype} of shape {self.labels.shape}."
            )
        if len(self) and not 0 <= np.min(self.labels) <= np.max(self.labels) < self.num_classes:
            raise InputError(
                f"labels must lie in 0..{self.num_classes - 1}, one per class name, got "
                f"{np.min(self.labels)}..{np.max(self.labels)}."
            )
        if self.super_classes is not None and len(self.super_classes) != self.num_classes:
            raise InputError(
                f"Require one super-class per class, {self.num_classes}, got "
                f"{len(self.super_classes)}."
            )
        if self.cameras is not None and self.cameras.shape != shape[:1]:
            raise InputError(f"Require one camera per image, {len(self)}, got {len(self.cameras)}.")

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """The number of classes that have a name."""
        return len(self.class_names)

    @property
    def class_sizes(self) -> npt.NDArray[np.int64]:
        """The number of images of each class [num_classes]."""
        return np.bincount(self.labels, minlength=self.num_classes)

    @property
    def super_class_labels(self) -> npt.NDArray[np.int64]:
        """The super-class of each image [N], counted from 0 in the order of their names."""
        if self.super_classes is None:
            raise InputError(
                "division.grouping=labels requires super-classes, and the data set has none; list "
                "its images in a table with a column super_class (dataset.name=manifest), or take "
                "division.grouping=kmeans or random."
            )
        ordered = sorted(set(self.super_classes), key=naming.encode)
        numbers = {name: number for number, name in enumerate(ordered)}
        return np.array([numbers[name] for name in self.super_classes], np.int64)[self.labels]

    @property
    def in_memory(self) -> bool:
        """Whether the images are pixels or features rather than encoded."""
        return self.images.dtype in (np.uint8, np.float32)

    @property
    def num_features(self) -> int:
        """F of features; 0 for images."""
        return self.images.shape[1] if self.images.dtype == np.float32 else 0

    @functools.cached_property
    def file_states(self) -> npt.NDArray[Any]:
        """Identity and kind of the files of encoded images, [N] of the fields `files.STATE`.

        They are read once, when first needed, since that is slow on network file systems.
        """
        return files.states(self.images)

    @property
    def is_no_file(self) -> npt.NDArray[np.bool_]:
        """Whether there is a pipe, folder or device in place of a file, [N]."""
        return ~np.isin(self.file_states["kind"], (0, stat.S_IFREG))  # 0: there is nothing

    def name(self, row: int) -> str:
        """Returns the path of an image, or the file and the place in it; of pixels, "image 7"."""
        if self.names is not None:
            return str(self.names[row])
        if self.in_memory:
            return f"image {row}"
        image = self.images[row]
        return str(image) if image.dtype.names is None else f"{image[0]}, byte {image[1]}"

    def select(self, rows: npt.ArrayLike) -> "ImageSet":
        """Returns the given rows (indices or a boolean mask); labels and class names stay."""
        index = np.asarray(rows)
        index = index if index.dtype == bool else index.astype(np.intp)
        chosen = dataclasses.replace(
            self,
            images=self.images[index],
            labels=self.labels[index],
            cameras=None if self.cameras is None else self.cameras[index],
            names=None if self.names is None else self.names[index],
        )
        if "file_states" in vars(self):  # where a cached property keeps its value
            vars(chosen)["file_states"] = self.file_states[index]
        return chosen

    def select_classes(self, is_chosen: npt.NDArray[np.bool_]) -> "ImageSet":
        """Returns the images of some classes [num_classes], which are numbered anew from 0."""
        chosen = self.select(is_chosen[self.labels])
        classes = np.flatnonzero(is_chosen).tolist()
        above = self.super_classes
        renumbered = dataclasses.replace(
            chosen,
            labels=(np.cumsum(is_chosen) - 1).astype(np.int32)[chosen.labels],
            class_names=tuple(self.class_names[i] for i in classes),
            super_classes=None if above is None else tuple(above[i] for i in classes),
        )
        vars(renumbered).update({k: v for k, v in vars(chosen).items() if k == "file_states"})
        return renumbered


@dataclasses.dataclass(frozen=True)
class Splits:
    """The splits of a data set by its protocol: train on some classes, retrieve others.

    Attributes:
      train: Images to train on; none where only the others were asked for.
      query: Images that search.
      gallery: Images that are searched, with the labels of `query`; None: `query` itself.
      validation: Images of classes that are held out of training, to choose by; None: none.
    """

    train: ImageSet
    query: ImageSet
    gallery: ImageSet | None = None
    validation: ImageSet | None = None

    def __post_init__(self) -> None:
        """Checks that no split is empty but train, and that query and gallery share labels."""
        for name, images in self.sets.items():
            if name != "train":
                require_images(name, images)
        if self.gallery is not None and self.gallery.class_names != self.query.class_names:
            raise InputError("query and gallery must have the same class_names, got different.")
        if self.gallery is not None and (
            (self.gallery.cameras is None) != (self.query.cameras is None)
        ):
            raise InputError("query and gallery must both have cameras or neither, got one only.")

    @property
    def query_name(self) -> str:
        """The name of the query set that users see: "test" where it is the gallery too."""
        return "test" if self.gallery is None else "query"

    @property
    def sets(self) -> dict[str, ImageSet]:
        """The sets by the names that users see: train, validation and test, or query and gallery.

        Without `train`, if an evaluation has none, and without validation, if there is none.
        """
        sets = {"train": self.train} if len(self.train) else {}
        if self.validation is not None:
            sets["validation"] = self.validation
        sets[self.query_name] = self.query
        return sets if self.gallery is None else {**sets, "gallery": self.gallery}

    def with_sets(self, sets: Mapping[str, ImageSet]) -> "Splits":
        """Returns the splits with others in place of some of `sets`, by the same names."""
        fields = {"query" if x == self.query_name else x: images for x, images in sets.items()}
        return dataclasses.replace(self, **fields)

    @property
    def test_sets(self) -> list[ImageSet]:
        """The query and, if there is one, the gallery."""
        return [self.query] if self.gallery is None else [self.query, self.gallery]

    def without_train(self) -> "Splits":
        """Returns what an evaluation needs."""
        return dataclasses.replace(self, train=no_images(), validation=None)


def no_images() -> ImageSet:
    """Returns an empty set."""
    return ImageSet(np.array([], np.str_), np.array([], np.int32), ())


def require_images(split: str, images: ImageSet) -> None:
    """Raises an error if a split is empty."""
    if not len(images):
        raise InputError(
            f"Require at least one image in every split, got 0 in {split}; check that "
            "dataset.root holds the whole data set."
        )


def file_parts(files: Sequence[str], offsets: Sequence[int], lengths: Sequence[int]) -> ImageArray:
    """Returns where encoded images lie: paths, first bytes and numbers of bytes, each [N]."""
    columns = np.array(files, np.str_), np.array(offsets, np.int64), np.array(lengths, np.int64)
    kinds = [(name, column.dtype) for name, column in zip(_PART, columns, strict=True)]
    return np.array(list(zip(*columns, strict=True)), dtype=kinds)


def from_classes(
    images: Sequence[str] | ImageArray,
    classes: npt.ArrayLike,
    *,
    among: npt.ArrayLike | None = None,
    names: Mapping[Any, str] | None = None,
    super_classes: Mapping[Any, str] | None = None,
    cameras: npt.NDArray[np.str_] | None = None,
) -> ImageSet:
    """Labels images 0..C-1 in the sorted order of their classes' own ids.

    Args:
      images: Paths, file parts or pixels, [N].
      classes: Ids (integers or strings) as the data set writes them, [N].
      among: Ids that count, where several splits share one labelling; None: `classes`.
      names: Class name of each id; an id without one is its own name.
      super_classes: Name of the super-class of each id.
      cameras: Name of the camera of each image, [N].
    """
    ids = np.unique(np.asarray(classes if among is None else among))
    labels = np.searchsorted(ids, np.asarray(classes)).astype(np.int32)
    if ids.dtype.kind == "U":
        encoded = [naming.encode(name) for name in ids.tolist()]
        order = sorted(range(len(ids)), key=encoded.__getitem__)
        ids, labels = ids[order], np.argsort(order).astype(np.int32)[labels]
    class_names = tuple((names or {}).get(i, str(i)) for i in ids.tolist())
    array = images if isinstance(images, np.ndarray) else np.array(images, dtype=np.str_)
    if array.dtype.kind == "U" and sys.getfilesystemencoding() != "utf-8":
        array = np.array([naming.as_file_name(path) for path in array.tolist()], np.str_)
    above = None if super_classes is None else tuple(super_classes[i] for i in ids.tolist())
    return ImageSet(array, labels, class_names, above, cameras)


def split_by_class(
    images: Sequence[str] | ImageArray,
    classes: npt.ArrayLike,
    is_train: npt.NDArray[np.bool_],
    *,
    names: Mapping[Any, str] | None = None,
    super_classes: Mapping[Any, str] | None = None,
) -> Splits:
    """Cuts images into a train and a test part, the latter a query that is its own gallery."""
    array = images if isinstance(images, np.ndarray) else np.array(images, dtype=np.str_)
    ids = np.asarray(classes)
    train, test = (
        from_classes(array[rows], ids[rows], names=names, super_classes=super_classes)
        for rows in (is_train, ~is_train)
    )
    return Splits(train=train, query=test)


def require_unseen(splits: Splits, where: str | os.PathLike[str]) -> Splits:
    """Returns the splits if none shares a class with another, and raises otherwise."""
    tested = splits.query if splits.gallery is None else splits.gallery
    sets = {"train": splits.train, "validation": splits.validation, "test": tested}
    known = {name: images for name, images in sets.items() if images is not None}
    for first, second in itertools.combinations(known, 2):
        shared = sorted(set(known[first].class_names) & set(known[second].class_names))
        if shared:
            raise InputError(
                f"{where}: {second} classes must be unseen, but {len(shared)} are in {first} too, "
                f"the first is {shared[0]!r}; move or rename them."
            )
    return splits
