"""Checks that a config continues or evaluates the run that was saved, on the same images."""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from dcjax.core import naming
from dcjax.core.errors import InputError
from dcjax.data import datasets
from dcjax.experiment import versions

# What may differ between a saved run and one that continues or evaluates it,
_FREE = {
    "dataset.skip_unreadable",  # the images that are left are compared
    "dataset.max_pixels",  # as are these
    "dataset.cache",
    "dataset.cache_dir",
    "dataset.complete",
    "dataset.download",
    "dataset.manifest",
    "dataset.num_threads",
    "dataset.root",
    "dataset.source",
    "devices.cluster_parallel",
    "model.pretrained",
    "model.convolution",
    "train.log_every_steps",
    "train.num_epochs",
    "eval.every_epochs",
    "eval.at_start",
    "eval.batch_size",
    "eval.ks",
    "eval.kmeans",
    "eval.nmi",
    "eval.nmi_runs",
    "eval.pixels",
    "eval.select",
    "checkpoint.every_epochs",
    "checkpoint.keep_latest",
    "checkpoint.keep_best",
    "checkpoint.on_failure",
}
# and what only an evaluation may change: a run finds its best epoch by one score of one protocol,
# and keeps its checkpoint.
_FREE_IN_EVALUATION = {
    "dataset.test_list",
    "model.test_masks",
    "eval.protocol",
    "eval.gallery_draws",
    "eval.best_by",
}

# What of the first has a part in scores, besides eval.
_SCORED = {
    "dataset.complete",
    "dataset.manifest",
    "dataset.root",
    "dataset.skip_unreadable",
    "dataset.source",
    "model.pretrained",
}


SETS = {"train": "training", "query": "test", "gallery": "gallery"}


def fingerprints(splits: datasets.Splits) -> dict[str, dict[str, int]]:
    """Returns the fingerprint of each image set that is there, by its name."""
    sets = {name: getattr(splits, name) for name in SETS}
    return {name: fingerprint(images) for name, images in sets.items() if images}


def fingerprint(images: datasets.ImageSet) -> dict[str, int]:
    """Returns what tells an image set from another one, wherever and however it lies.

    Of encoded images the sizes in bytes count, not the contents.
    """
    content = images.images if images.in_memory else images.file_states["size"]
    return {
        "images": len(images),
        "classes": images.num_classes,
        "labels": zlib.crc32(np.ascontiguousarray(images.labels).data),
        "names": naming.checksum(images.class_names),
        "super_classes": naming.checksum(images.super_classes or ()),
        "content": zlib.crc32(np.ascontiguousarray(content).data),
    }


def saved_settings(
    meta: dict[str, Any], source: str, known: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Returns the settings of a checkpoint as this version would have saved them.

    Args:
      meta: of the checkpoint.
      source: the run, for the message.
      known: settings of the caller, see `versions.upgrade`.

    Raises:
      InputError: if a newer version of dcjax saved it, or none.
    """
    if not isinstance(meta, dict) or not {"config", "progress"} <= meta.keys():
        raise InputError(f"{source} has a checkpoint that is not of a run of dcjax.")
    return versions.upgrade(meta["config"], meta.get("format", 1), source, known=known)


def check_same_data(now: Mapping[str, Any], saved: Mapping[str, Any], workdir: str) -> None:
    """Checks that a run goes on with the images that it began with, to train and to test.

    Args:
      now: `fingerprints`, or the `fingerprint` of the training images.
      saved: then; of older runs that of the training images only, and only that is compared.
      workdir: of the run, for the message.

    Raises:
      InputError: if these are others.
    """
    for difference in differences(now, saved):
        raise InputError(
            f"{workdir} holds a run on other {difference}; take another --workdir, or restore the "
            "images."
        )


def differences(now: Mapping[str, Any], saved: Mapping[str, Any]) -> Iterator[str]:
    """Yields which image sets are others than in a saved run, of those that both know."""
    now, saved = _by_set(now), _by_set(saved)
    known = now.keys() & saved.keys()
    if "query" in known:  # and so also whether there is a gallery
        known |= {"gallery"} & (now.keys() | saved.keys())
    nothing = {"images": 0, "classes": 0}
    for name in sorted(known, key=list(SETS).index):
        new, old = now.get(name, nothing), saved.get(name, nothing)
        if any(new.get(key) != value for key, value in old.items()):
            same_size = new["images"] == old["images"]
            yield (
                f"{SETS[name]} images: now {new['images']} images of {new['classes']} classes, "
                f"then {old['images']} of {old['classes']}"
                f"{' with other names, labels, sizes or super-classes' if same_size else ''}"
            )


def _by_set(data: Mapping[str, Any]) -> Mapping[str, Mapping[str, int]]:
    return {"train": data} if "images" in data else data


def check_same(
    settings: dict[str, Any],
    saved: dict[str, Any],
    workdir: str,
    *,
    evaluating: bool = False,
    scored: bool = False,
) -> None:
    """Checks that settings make the same run as the one saved in a workdir, or evaluate it.

    Args:
      settings: now, nested.
      saved: then.
      workdir: of the run, for the message.
      evaluating: whether it is only evaluated, which may change how it is scored.
      scored: whether the scores saved with it are taken as they are, unseen the data.

    Raises:
      InputError: listing the settings that differ.
    """
    free = _FREE | _FREE_IN_EVALUATION if evaluating else _FREE
    if scored:
        free = {key for key in free - _SCORED if not key.startswith("eval.")}
    now, then = flatten(settings), flatten(saved)
    check_complete(then, now.keys())
    different = [
        f"{key}={now.get(key)!r} (saved: {then.get(key)!r})"
        for key in sorted(now | then)
        if now.get(key) != then.get(key) and key not in free
    ]
    if different:
        raise InputError(
            f"{workdir} holds a run of another config; take another --workdir, or the same "
            f"settings{'' if evaluating else ' (--mode=evaluate may change how it is scored)'}. "
            f"Different: {', '.join(different)}."
        )


def check_complete(settings: dict[str, Any], needed: Iterable[str]) -> None:
    """Checks that settings, by dotted key, are all there.

    Raises:
      InputError: naming those that are not.
    """
    if missing := sorted(set(needed) - settings.keys()):
        raise InputError(
            "Require every setting of the config in the saved run, got none for "
            f"{', '.join(missing)}; leave out what you have added, or use the config of another "
            "version of dcjax."
        )


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings by dotted key, sequences as lists."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
