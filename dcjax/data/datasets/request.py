"""The arguments that all data sets have in common."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Request:
    """The first argument of every data set's `load`; its keyword arguments are its own options.

    Attributes:
      root: Folder of the extracted data set; "" for those that bring their images along.
      with_train: False: training images are left out, and need not be there.
      saved_test: `same_run.fingerprint` of the test images of a saved run, to select the same.
    """

    root: str
    with_train: bool = True
    saved_test: Mapping[str, int] | None = None
