"""Checks that all processes use the same settings, images and weights."""

import json
import zlib
from typing import Any

import jax
import numpy as np

from dcjax.core.errors import InputError
from dcjax.data import datasets
from dcjax.distributed import processes
from dcjax.experiment import same_run


def check_images(splits: datasets.Splits) -> dict[str, dict[str, int]]:
    """Checks that all processes have the same lists of images; returns their fingerprints.

    Raises:
      InputError: on all processes, if they differ.
    """
    fingerprints = same_run.fingerprints(splits)
    for name in same_run.SETS:
        processes.check_same(f"images of the {name} set", _checksum(fingerprints.get(name, {})))
    return fingerprints


def check_settings(settings: dict[str, Any] | None) -> None:
    """Checks that all processes have the same settings, if any.

    Raises:
      InputError: on all processes, if they differ; names the settings.
    """
    if jax.process_count() == 1:
        return
    settings = same_run.flatten(settings or {})
    processes.check_same("names of settings", _checksum(list(settings)))
    if not settings:
        return
    checksums = np.array(list(map(_checksum, settings.values())), np.uint32)
    received = processes.all_gather(checksums)
    is_same = np.all(received == received[0], axis=0)
    if differing := [name for name, same in zip(settings, is_same, strict=True) if not same]:
        raise InputError(
            "All processes must have the same settings, got different ones of "
            f"{', '.join(differing[:8])}; start all of them with the same command."
        )


def check_arrays(what: str, tree: Any) -> None:
    """Checks that all processes have the same arrays.

    Raises:
      InputError: on all processes, if they differ.
    """
    if jax.process_count() == 1:
        return
    processes.check_same(what, array_checksum(tree))


def array_checksum(tree: Any) -> int:
    """Returns a checksum of the contents of all arrays of a tree, in order."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        total = zlib.crc32(np.ascontiguousarray(leaf).data, total)
    return total


def _checksum(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())
