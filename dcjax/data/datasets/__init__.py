"""Image sets and their protocols: classes to train on, other classes to retrieve."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from dcjax.core import naming, options
from dcjax.core.errors import InputError, file_errors
from dcjax.data.datasets import duplicates
from dcjax.data.datasets.image_set import ImageSet, Splits, require_images
from dcjax.data.datasets.request import Request
from dcjax.data.datasets.sources import SOURCES
from dcjax.data.datasets.validation import HoldOut, hold_out

__all__ = [
    "KNOWN",
    "SOURCES",
    "HoldOut",
    "ImageSet",
    "Splits",
    "known_options",
    "load",
    "load_index",
]

# Modules of this package, imported when asked for: scikit-learn and scipy.io take seconds that
# other data sets need not pay.
KNOWN = (
    *("cars", "cub", "digits", "duke", "features", "folder", "grocery", "inshop"),
    *("manifest", "market", "omniglot", "sop", "veri", "vid"),
)


def load(name: str, *, root: str, **options: Any) -> Splits:
    """Loads a data set's index as `load_index` does, and refuses it by `duplicates.check_files`."""
    splits = load_index(name, root=root, **options)
    duplicates.check_files(splits)
    return splits


def load_index(
    name: str,
    *,
    root: str,
    with_train: bool = True,
    saved_test: Mapping[str, int] | None = None,
    validation: HoldOut | None = None,
    **given: Any,
) -> Splits:
    """Loads a data set's index (paths or small pixels, labels), without decoding any file.

    Args:
      name: One of the known names.
      root: See `Request`.
      with_train: See `Request`.
      saved_test: See `Request`.
      validation: Which training classes are held out for validation; None: none.
      **given: The data set's own, all of them (`known_options`).
    """
    load = _loader(name)
    options.require(f"dataset {name!r}", given, options.of(load))
    request = Request(naming.expand(root), with_train, saved_test)
    with file_errors(f"Cannot read the files of dataset {name!r}"):
        splits = load(request, **given)
    if not with_train:
        return splits.without_train()
    require_images("train", splits.train)
    return hold_out(splits, validation or HoldOut())


def known_options(name: str) -> tuple[str, ...]:
    """Returns the names of the options that `load` takes for this data set."""
    return tuple(options.of(_loader(name)))


def _loader(name: str) -> Callable[..., Splits]:
    if name not in KNOWN:
        raise InputError(f"Unknown dataset {name!r}; known datasets are {', '.join(KNOWN)}.")
    return importlib.import_module(f"{__name__}.{name}").load
