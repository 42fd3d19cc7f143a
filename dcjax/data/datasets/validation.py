"""Validation classes: training classes that are held out, to choose without the test classes.

Which they are depends on the names of the classes alone, not on the seed or the order of images:
so runs with other seeds, sources and numbers of hosts hold out the same ones.
"""

import dataclasses
import hashlib
import math

import numpy as np

from dcjax.core import naming
from dcjax.core.errors import InputError, SettingError, nearest
from dcjax.core.ranges import require_known
from dcjax.data.datasets.image_set import ImageSet, Splits

UNITS = ("class", "super_class", "none")

_IN_WORDS = {"class": "training classes", "super_class": "super-classes"}
_ROUNDING = 1e-9  # of a share such as 1 / 3


@dataclasses.dataclass(frozen=True)
class HoldOut:
    """Which training classes are held out for validation.

    Attributes:
      share: of the units, 0 for none; the units come in the order of a hash of their names.
      names: of the units, in place of a share.
      unit: "class"; "super_class", whose classes are held out together; or "none": no class is
        held out, and those that the data set has for validation are trained on too.
      fold: which part of such a share is held out, from 0; the parts are disjoint.
    """

    share: float = 0.0
    names: tuple[str, ...] = ()
    unit: str = "class"
    fold: int = 0

    @property
    def is_wanted(self) -> bool:
        """Whether classes are to be held out."""
        return self.unit != "none" and bool(self.share or self.names)


def check_options(wanted: HoldOut) -> None:
    """Checks what does not depend on the data.

    Raises:
      SettingError: naming the settings and what is allowed.
    """
    require_known("validation_unit", wanted.unit, UNITS)
    if wanted.share and wanted.names:
        raise SettingError(
            "Require one of dataset.validation_classes and dataset.validation_list, got "
            f"{wanted.share} and {len(wanted.names)} names; leave out one of them."
        )
    num_folds = math.floor(1 / wanted.share + _ROUNDING) if wanted.share else 1
    if wanted.fold >= num_folds:
        raise SettingError(
            f"Require dataset.validation_fold < {num_folds}, the number of disjoint parts of the "
            f"share dataset.validation_classes={wanted.share}, got {wanted.fold}."
        )


def hold_out(splits: Splits, wanted: HoldOut) -> Splits:
    """Returns the splits with validation classes as wanted.

    Args:
      splits: those of a data set, which may have validation classes of its own.
      wanted: which of its training classes to hold out.

    Raises:
      InputError: if these are none, all, or unknown.
    """
    given = splits.validation
    if wanted.unit == "none":
        train = splits.train if given is None else _join(splits.train, given)
        return dataclasses.replace(splits, train=train, validation=None)
    if not wanted.is_wanted:
        return splits
    if given is not None:
        raise InputError(
            f"The data set has {given.num_classes} validation classes of its own: leave out "
            "dataset.validation_classes and dataset.validation_list."
        )
    train = splits.train
    units = _units(train, wanted.unit)
    chosen = set(wanted.names or _choose(units, wanted))
    if unknown := [name for name in wanted.names if name not in units]:
        raise InputError(
            f"Require names of {_IN_WORDS[wanted.unit]} in dataset.validation_list, got "
            f"{naming.escape(unknown[0])!r}{nearest(unknown[0], set(units))}."
        )
    is_held_out = np.array([name in chosen for name in units])
    if is_held_out.all():
        setting = f"validation_{'list' if wanted.names else 'classes'}"
        raise InputError(
            f"Require {_IN_WORDS[wanted.unit]} to train on beside those for validation, got all "
            f"{len(set(units))} in dataset.{setting}; hold out fewer."
        )
    return dataclasses.replace(
        splits,
        train=train.select_classes(~is_held_out),
        validation=train.select_classes(is_held_out),
    )


def _units(train: ImageSet, unit: str) -> tuple[str, ...]:
    """Returns the name of the unit of each class."""
    if unit == "class":
        return train.class_names
    if train.super_classes is None:
        raise InputError(
            "dataset.validation_unit=super_class requires super-classes, and the data set has "
            "none; take class, or list its images in a table with a column super_class "
            "(dataset.name=manifest)."
        )
    return train.super_classes


def _choose(units: tuple[str, ...], wanted: HoldOut) -> list[str]:
    """Returns the names of the units of a share."""
    ordered = sorted(set(units), key=lambda name: hashlib.sha256(naming.encode(name)).digest())
    start, end = (
        math.floor((wanted.fold + i) * wanted.share * len(ordered) + 0.5 + _ROUNDING)
        for i in (0, 1)
    )
    if start >= end:
        raise InputError(
            f"dataset.validation_classes={wanted.share} of {len(ordered)} "
            f"{_IN_WORDS[wanted.unit]} is none: require {1 / len(ordered):.2g} or more, or 0 for "
            "no validation."
        )
    return ordered[start:end]


def _join(first: ImageSet, second: ImageSet) -> ImageSet:
    """Returns the images of both sets, which share no class, their classes in sorted order."""
    names = first.class_names + second.class_names
    order = sorted(range(len(names)), key=lambda i: naming.encode(names[i]))
    number = np.argsort(order).astype(np.int32)
    above = None
    if first.super_classes is not None and second.super_classes is not None:
        both = first.super_classes + second.super_classes
        above = tuple(both[i] for i in order)
    labels = np.concatenate([first.labels, second.labels + first.num_classes])
    return ImageSet(
        np.concatenate([first.images, second.images]),
        number[labels],
        tuple(names[i] for i in order),
        above,
        cameras=_concatenate(first.cameras, second.cameras),
        names=_concatenate(first.names, second.names),
    )


def _concatenate(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    return None if first is None or second is None else np.concatenate([first, second])
