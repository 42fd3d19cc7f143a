"""Image sets and their protocols: classes to train on, other classes to retrieve."""

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from dcjax.core import naming, options
from dcjax.core.errors import InputError, file_errors
from dcjax.data.datasets import duplicates
from dcjax.data.datasets.image_set import ImageSet, Splits, require_images
from dcjax.data.datasets.sources import SOURCES

__all__ = ["KNOWN", "SOURCES", "ImageSet", "Splits", "known_options", "load", "load_index"]

# Imported when asked for: scikit-learn and scipy.io take seconds that other data sets need not pay.
_MODULES = {
    "cars": "dcjax.data.datasets.cars",
    "cub": "dcjax.data.datasets.cub",
    "digits": "dcjax.data.datasets.digits",
    "folder": "dcjax.data.datasets.folder",
    "grocery": "dcjax.data.datasets.grocery",
    "inshop": "dcjax.data.datasets.inshop",
    "manifest": "dcjax.data.datasets.manifest",
    "omniglot": "dcjax.data.datasets.omniglot",
    "sop": "dcjax.data.datasets.sop",
    "vid": "dcjax.data.datasets.vid",
}
KNOWN = tuple(_MODULES)

# What `load` passes on to the data sets that have a use for it, besides their options.
_REQUEST = ("with_train", "saved_test")


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
    **given: Any,
) -> Splits:
    """Loads a data set's index (paths or small pixels, labels), without decoding any file.

    Args:
      name: One of the known names.
      root: Folder of the extracted data set; "" for those that bring their images along.
      with_train: False: training images are left out, and need not be there.
      saved_test: Of a saved run, `same_run.fingerprint` of its test images, to find them by.
      **given: The data set's own, all of them (`known_options`).
    """
    load = _module(name).load
    options.require(f"dataset {name!r}", given, _options_of(load))
    request = {"with_train": with_train, "saved_test": saved_test}
    request = {key: x for key, x in request.items() if key in options.of(load)}
    with file_errors(f"Cannot read the files of dataset {name!r}"):
        splits: Splits = load(naming.expand(root), **request, **given)
    if not with_train:
        return splits.without_train()
    require_images("train", splits.train)
    return splits


def known_options(name: str) -> tuple[str, ...]:
    """Returns the names of the options that `load` takes for this data set."""
    return tuple(_options_of(_module(name).load))


def _options_of(load: Callable[..., Splits]) -> dict[str, Any]:
    found = options.of(load)
    return {name: default for name, default in found.items() if name not in _REQUEST}


def _module(name: str) -> ModuleType:
    if name not in _MODULES:
        raise InputError(f"Unknown dataset {name!r}; known datasets are {', '.join(_MODULES)}.")
    return importlib.import_module(_MODULES[name])
