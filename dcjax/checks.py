"""What can be checked before anything compiles."""

from typing import Any

import jax
from ml_collections import ConfigDict

from dcjax import datasets, devices, division, experiment, masks, sampling

# What may differ between a saved run and one that continues or evaluates it.
_FREE = (
    "dataset.num_threads",
    "dataset.root",
    "model.pretrained",
    "train.log_every_steps",
    "train.num_epochs",
)
_FREE_GROUPS = ("eval.", "checkpoint.")
_NMI = ("never", "last", "always")
_SELECT = ("last", "best_test")
_FEATURES = ("backbone", "embedding")


def check_settings(config: ConfigDict, splits: datasets.Splits, mesh: jax.sharding.Mesh) -> None:
    """Checks what can be checked before anything compiles.

    Raises:
      ValueError: naming the setting, its value and what is allowed.
    """
    dividing, evaluating = config.division, config.eval
    division.check(splits.train.labels, max_clusters=dividing.max_clusters)
    experiment.num_clusters(config, 0)  # knows the hierarchies
    sampling.check(splits.train.labels, **config.sampling)
    devices.check_batch_size("sampling.batch_size", config.sampling.batch_size, mesh)
    devices.check_batch_size("eval.batch_size", evaluating.batch_size, mesh)
    _check_known("model.masks", config.model.masks, masks.KINDS)
    _check_known("model.test_masks", config.model.test_masks, masks.COMBINATIONS)
    _check_known("division.features", dividing.features, _FEATURES)
    _check_known("division.matching", dividing.matching, division.MATCHINGS)
    _check_known("eval.nmi", evaluating.nmi, _NMI)
    _check_known("eval.select", evaluating.select, _SELECT)
    scores = [f"recall_at_{k}" for k in evaluating.ks] + ["map_at_r", "marp_paper", "r_precision"]
    _check_known("eval.best_by", evaluating.best_by, scores)
    searched = len(splits.query) - 1 if splits.gallery is None else len(splits.gallery)
    if not evaluating.ks or not 1 <= min(evaluating.ks) <= max(evaluating.ks) <= searched:
        raise ValueError(
            f"eval.ks must lie in 1 to {searched}, the images that a query searches, got "
            f"{tuple(evaluating.ks)}."
        )
    if config.dataset.crop > config.dataset.resize:
        raise ValueError(
            f"Require dataset.crop <= dataset.resize, got {config.dataset.crop} and "
            f"{config.dataset.resize}."
        )
    if config.model.batch_norm == "frozen" and not config.model.pretrained:
        raise ValueError(
            "model.batch_norm=frozen keeps the statistics of published weights, but "
            "model.pretrained is ''; give a safetensors file, or model.batch_norm=train."
        )
    never_trained = not 0 <= dividing.freeze_backbone_epochs < dividing.every_epochs
    if dividing.max_clusters > 1 and never_trained:
        raise ValueError(
            "Require 0 <= division.freeze_backbone_epochs < division.every_epochs, got "
            f"{dividing.freeze_backbone_epochs} and {dividing.every_epochs}: the backbone would "
            "never be trained."
        )
    if config.train.num_epochs < 1:
        raise ValueError(f"Require train.num_epochs >= 1, got {config.train.num_epochs}.")


def _check_known(setting: str, value: str, known: Any) -> None:
    if value not in known:
        raise ValueError(f"Unknown {setting} {value!r}; known are {', '.join(known)}.")


def check_same(config: ConfigDict, saved: dict[str, Any], workdir: str) -> None:
    """Checks that a config makes the same run as the one saved in a workdir.

    Raises:
      ValueError: listing the settings that differ.
    """
    now, then = _flat(config.to_dict()), _flat(saved)
    different = [
        f"{key}={now.get(key)!r} (saved: {then.get(key)!r})"
        for key in sorted(now | then)
        if now.get(key) != then.get(key) and key not in _FREE and not key.startswith(_FREE_GROUPS)
    ]
    if different:
        raise ValueError(
            f"{workdir} holds a run of another config; take another --workdir, or the same "
            f"settings. Different: {', '.join(different)}."
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
