"""Image sets and their protocols: classes to train on, other classes to retrieve."""

import importlib
import inspect
from types import ModuleType
from typing import Any

from dcjax.datasets.files import num_bytes
from dcjax.datasets.image_set import ImageSet, Splits
from dcjax.datasets.sources import SOURCES
from dcjax.errors import InputError, file_errors

__all__ = ["KNOWN", "SOURCES", "ImageSet", "Splits", "known_options", "load", "num_bytes"]

# Imported when asked for: scikit-learn and scipy.io take seconds that other data sets need not pay.
_MODULES = {
    "cars": "dcjax.datasets.cars",
    "cub": "dcjax.datasets.cub",
    "digits": "dcjax.datasets.digits",
    "folder": "dcjax.datasets.folder",
    "grocery": "dcjax.datasets.grocery",
    "inshop": "dcjax.datasets.inshop",
    "manifest": "dcjax.datasets.manifest",
    "omniglot": "dcjax.datasets.omniglot",
    "sop": "dcjax.datasets.sop",
    "vid": "dcjax.datasets.vid",
}
KNOWN = tuple(_MODULES)


def load(name: str, *, root: str, **options: Any) -> Splits:
    """Loads a data set's index (paths or small pixels, labels), without decoding any file.

    Args:
      name: One of the known names.
      root: Folder of the extracted data set; "" for those that bring their images along.
      **options: The data set's own, all of them (`known_options`).
    """
    known = known_options(name)
    for option in options:
        if option not in known:
            raise InputError(
                f"Unknown option {option!r} of dataset {name!r}; known options are "
                f"{', '.join(known) or 'none'}."
            )
    missing = [option for option in known if option not in options]
    if missing:
        raise InputError(f"Dataset {name!r} lacks the options {', '.join(missing)}.")
    with file_errors(f"Cannot read the files of dataset {name!r}"):
        return _module(name).load(root, **options)


def known_options(name: str) -> tuple[str, ...]:
    """Returns the names of the options that `load` takes for this data set."""
    return tuple(p for p in inspect.signature(_module(name).load).parameters if p != "root")


def _module(name: str) -> ModuleType:
    if name not in _MODULES:
        raise InputError(f"Unknown dataset {name!r}; known datasets are {', '.join(_MODULES)}.")
    return importlib.import_module(_MODULES[name])
