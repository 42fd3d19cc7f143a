"""Checks that a config continues or evaluates the run that was saved, on the same images."""

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from dcjax.core import naming
from dcjax.core.errors import InputError
from dcjax.data import datasets
from dcjax.experiment import versions

# Settings that may differ between a saved run and one that continues or evaluates it,
_FREE = {
    "dataset.skip_unreadable",  # the images that are left are compared
    "dataset.max_pixels",  # as are these
    "dataset.cache",
    "dataset.cache_dir",
    "dataset.complete",
    "dataset.download",
    "dataset.features",  # the features in the file are compared
    "dataset.manifest",
    "dataset.num_threads",
    "dataset.root",
    "dataset.source",
    "devices.cluster_parallel",
    "model.chunk_size",
    "model.convolution",
    "model.pretrained",
    "model.rematerialize",
    "model.vit.attention",
    "train.log_every_steps",
    "train.num_epochs",
    "train.refit",
    "train.report",
    "train.stop_after",
    "train.until_epoch",
    "eval.every_epochs",
    "eval.at_start",
    "eval.batch_size",
    "eval.dims",
    "eval.ks",
    "eval.fmr",
    "eval.rerank",
    "eval.reranking.k1",
    "eval.reranking.k2",
    "eval.reranking.original_weight",
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
# and those that only an evaluation may change: a run selects the checkpoint of its best epoch by
# one score of one protocol.
_FREE_IN_EVALUATION = {
    "dataset.test_list",
    "model.test_masks",
    "eval.protocol",
    "eval.gallery_draws",
    "eval.best_by",
}

# Those of _FREE that may change scores, besides eval.
_SCORED = {
    "dataset.complete",
    "dataset.features",
    "dataset.manifest",
    "dataset.root",
    "dataset.skip_unreadable",
    "dataset.source",
    "model.pretrained",
    "train.stop_after",
}


SETS = {"train": "training", "validation": "validation", "query": "test", "gallery": "gallery"}


def fingerprints(splits: datasets.Splits) -> dict[str, dict[str, int]]:
    """Returns the fingerprint of each image set that is there, by its name."""
    sets = {name: getattr(splits, name) for name in SETS}
    return {name: fingerprint(images) for name, images in sets.items() if images}


def fingerprint(images: datasets.ImageSet) -> dict[str, int]:
    """Returns checksums that identify an image set, independently of where it is stored.

    For encoded images they cover the sizes in bytes, not the contents.
    """
    content = images.images if images.in_memory else images.file_states["size"]
    return {
        "images": len(images),
        "classes": images.num_classes,
        "labels": zlib.crc32(np.ascontiguousarray(images.labels).data),
        "names": naming.checksum(images.class_names),
        "super_classes": naming.checksum(images.super_classes or ()),
        "content": zlib.crc32(np.ascontiguousarray(content).data),
        **({} if images.cameras is None else {"cameras": naming.checksum(images.cameras.tolist())}),
        **({"num_features": images.num_features} if images.num_features else {}),
    }


def saved_settings(
    meta: dict[str, Any], source: str, known: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Returns the settings of a checkpoint in the current format.

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
    """Checks that a run continues with the training and test images that it began with.

    Args:
      now: `fingerprints`, or the `fingerprint` of the training images.
      saved: those of the saved run; older runs have that of the training images only.
      workdir: of the run, for the message.

    Raises:
      InputError: if the images differ.
    """
    for difference in differences(now, saved):
        raise InputError(
            f"{workdir} holds a run on other {difference}; take another --workdir, or restore the "
            "images."
        )


def differences(now: Mapping[str, Any], saved: Mapping[str, Any]) -> Iterator[str]:
    """Yields the image sets that differ from those of a saved run, of those that both have."""
    now, saved = _by_set(now), _by_set(saved)
    known = now.keys() & saved.keys()
    # Where the set beside them is known, it is known too whether there are these.
    for name, beside in (("validation", "train"), ("gallery", "query")):
        if beside in known:
            known |= {name} & (now.keys() | saved.keys())
    nothing = {"images": 0, "classes": 0}
    for name in sorted(known, key=list(SETS).index):
        new, old = now.get(name, nothing), saved.get(name, nothing)
        if any(new.get(key) != value for key, value in old.items()):
            same_size = new["images"] == old["images"]
            others = " with other names, labels, sizes, super-classes or cameras"
            yield (
                f"{SETS[name]} images: now {new['images']} images of {new['classes']} classes, "
                f"then {old['images']} of {old['classes']}"
                f"{others if same_size else ''}"
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
    """Checks that settings are those of the run in a workdir, but for what may differ.

    Args:
      settings: the current ones, nested.
      saved: those of the run.
      workdir: of the run, for the message.
      evaluating: whether the run is only evaluated, which may change how it is scored.
      scored: whether the saved scores are used, without reading the data.

    Raises:
      InputError: listing the settings that differ.
    """
    now, then = _without_paper(flatten(settings)), _without_paper(flatten(saved))
    free = _FREE | _FREE_IN_EVALUATION if evaluating else _FREE
    if scored:
        free = {key for key in free - _SCORED if not key.startswith("eval.")}
    is_cosine = now.get("optimizer.schedule") == "cosine" and not scored
    if not evaluating and (is_cosine or now.get("train.num_steps")):
        free = free - {"train.num_epochs"}  # the rates of all steps depend on it
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


def settings_fingerprint(settings: dict[str, Any]) -> str:
    """Returns a fingerprint of nested settings, without those that may differ within a run."""
    flat = _without_paper(flatten(settings))
    kept = {key: value for key, value in flat.items() if key not in _FREE}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def _without_paper(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a run without the figures of a paper, which change nothing."""
    return {key: value for key, value in settings.items() if not key.startswith("paper.")}


def check_complete(settings: dict[str, Any], needed: Iterable[str]) -> None:
    """Checks that all needed settings, by dotted key, are there.

    Raises:
      InputError: naming those that are missing.
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
