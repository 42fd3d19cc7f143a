"""Whether all processes train the same: they would not notice by themselves that they do not."""

import json
import zlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dcjax import datasets, processes, resuming


def check(config: ConfigDict, splits: datasets.Splits) -> None:
    """Checks that all processes have the same settings and the same lists of images.

    Raises:
      ValueError: on all of them, if they have not.
    """
    if jax.process_count() == 1:  # which need not look at all images again
        return
    processes.check_same("settings", _checksum(config.to_dict()))
    for name in ("train", "query", "gallery"):
        images = getattr(splits, name)
        told = resuming.fingerprint(images) if images is not None else {}
        processes.check_same(f"images of the {name} set", _checksum(told))


def check_arrays(what: str, tree: Any) -> None:
    """Checks that all processes have the same arrays.

    Raises:
      ValueError: on all of them, if they have not.
    """
    if jax.process_count() == 1:
        return
    total = 0
    for leaf in jax.tree.leaves(tree):
        total = zlib.crc32(np.ascontiguousarray(leaf).data, total)
    processes.check_same(what, total)


def _checksum(told: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(told, sort_keys=True).encode())
