"""Keeps the features of images, which a backbone that is not trained makes once.

They are kept in memory, or in a file for all later runs with the same backbone and images.
"""

import functools
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from dcjax.core.errors import InputError, file_errors
from dcjax.data import cache_folders, host_cache, pipeline, readers
from dcjax.data.feature_reader import FeatureReader, Features
from dcjax.distributed import devices, processes

Compute = Callable[[readers.EvalReader], Features]

_FORMAT = 1  # of the file; to be increased when crops or features change
_FILE = "features.npy"


class _Crops:
    """Centre crops of a stream, or those of a view; implements `readers.EvalReader`."""

    def __init__(
        self, stream: pipeline.Stream, view: int | None, advance: Callable[[str, int], None]
    ) -> None:
        self.images = stream.images
        self._stream = stream
        self._view = view
        self._advance = advance

    def eval_batches(self, rows: npt.NDArray[np.int32]) -> Iterator[npt.NDArray]:
        """Returns the crops of these rows, and reports each batch."""
        left = len(self.images)
        batches = (
            self._stream.eval_batches(rows)
            if self._view is None
            else self._stream.view_batches(rows, view=self._view)
        )
        for batch in batches:
            yield batch
            self._advance("images", min(left, rows.shape[1]))
            left -= min(left, rows.shape[1])


def create(
    streams: Sequence[pipeline.Stream],
    compute: Compute,
    *,
    num_features: int,
    num_views: int,
    backbone: Mapping[str, Any],
    folder: str | None,
    share: devices.Share = devices.WHOLE,
) -> list[FeatureReader]:
    """Returns readers of the features of image sets; all processes call it together.

    Args:
      streams: of the image sets, the first of which is trained on.
      compute: returns the features [N, F] of what a reader reads.
      num_features: F.
      num_views: V, augmented crops of each training image whose features are made; 0: training
        reads those of the centre crops.
      backbone: what its features depend on, as JSON.
      folder: holds the files, one for each set and view; "": dcjax/features in the user's cache
        folder; None: the features are kept in memory.
      share: the part of a step's images to read.

    Raises:
      InputError: before an image is decoded, if they do not fit.
    """
    views = [None, *range(num_views)]
    wanted = [(streams[0], view) for view in views] + [(stream, None) for stream in streams[1:]]
    if folder is None:
        _check_memory(sum(len(stream.images) for stream, _ in wanted) * num_features * 4)
    keep = _keep_in_memory if folder is None else functools.partial(_keep_on_disk, folder, backbone)
    made = [keep(stream, view, functools.partial(_make, compute)) for stream, view in wanted]
    train, *others = streams
    first = FeatureReader(
        train.images, made[0], views=made[1 : len(views)], seed=train.seed, share=share
    )
    rest = zip(others, made[len(views) :], strict=True)
    return [first, *(FeatureReader(stream.images, features) for stream, features in rest)]


def _make(compute: Compute, stream: pipeline.Stream, view: int | None) -> Features:
    total = len(stream.images)
    which = "" if view is None else f", view {view + 1}"
    console = cache_folders.say(f"makes the features of {total:,} images{which}")
    with console.progress("features", total=total, done=0) as move:
        return compute(_Crops(stream, view, move))


def _keep_in_memory(
    stream: pipeline.Stream, view: int | None, make: Callable[[pipeline.Stream, int | None], Any]
) -> Features:
    return make(stream, view)


def _keep_on_disk(
    folder: str,
    backbone: Mapping[str, Any],
    stream: pipeline.Stream,
    view: int | None,
    make: Callable[[pipeline.Stream, int | None], Any],
) -> Features:
    """Maps the file of the features of a stream, after making it if some process lacks it."""
    caches = cache_folders.root(folder, "features")
    place = caches / _key(stream, view, backbone)
    advice = "make room, or set dataset.cache_dir to another folder, or dataset.cache=none"
    with file_errors(f"dataset.cache=disk cannot be kept in {caches}", advice=advice):
        is_missing = np.uint32(bool(cache_folders.damage(place)))
        # Features are made by all processes, or by none.
        features = make(stream, view) if processes.all_gather(is_missing).any() else None
        data = cache_folders.find_or_write(place, functools.partial(_write, features, caches))
        return np.load(data / _FILE, mmap_mode="r")


def _write(features: Features | None, caches: pathlib.Path, data: pathlib.Path) -> None:
    if features is None:
        raise InputError(f"A file of features in {caches} was removed a moment ago; start again.")
    free = shutil.disk_usage(data).free
    if features.nbytes > free:
        raise InputError(
            f"dataset.cache=disk needs {features.nbytes / 2**20:,.0f} MiB in {caches} for the "
            f"features of {len(features):,} images, and there are {free / 2**20:,.0f} MiB; set "
            "dataset.cache_dir to another disk, or dataset.cache=none."
        )
    np.save(data / _FILE, features)


def _key(stream: pipeline.Stream, view: int | None, backbone: Mapping[str, Any]) -> str:
    """Returns a name that identifies the features of these images, see `host_cache.key`."""
    crop = stream.augmentation
    images = host_cache.key(stream.images, crop.resize)
    # The centre crops depend on no other option of the augmentation.
    augmented = [] if view is None else [repr(crop), stream.seed, view]
    device = jax.devices()[0].device_kind  # whose rounding they have
    parts = [_FORMAT, images, crop.size, *augmented, device, dict(backbone)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _check_memory(num_bytes: int) -> None:
    needed = num_bytes * processes.num_on_this_host()
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > available:
        raise InputError(
            f"The features of all images need {needed / 2**20:,.0f} MiB of memory, and this "
            f"machine has {available / 2**20:,.0f} MiB; set dataset.cache=disk, or fewer "
            "dataset.feature_views."
        )
