"""What can be checked before anything compiles."""

import math

import jax
import numpy as np
from ml_collections import ConfigDict

from dcjax import (
    convolution,
    crops,
    datasets,
    devices,
    division,
    grouping,
    masks,
    plugins,
    resuming,
    sampling,
    strategies,
)
from dcjax.errors import InputError

_SCORES = ("map_at_r", "marp_paper", "r_precision")
_KNOWN = {
    "dataset.cache": ("none", "memory", "disk", "device"),
    "dataset.source": datasets.SOURCES,
    "augment.strategy": tuple(strategies.STRATEGIES),
    "augment.crop": crops.CROPS,
    "model.convolution": convolution.METHODS,
    "model.masks": masks.KINDS,
    "model.test_masks": masks.COMBINATIONS,
    "division.features": ("backbone", "embedding"),
    "division.grouping": grouping.GROUPINGS,
    "division.kmeans": grouping.KMEANS,
    "division.hierarchy": division.HIERARCHIES,
    "division.matching": division.MATCHINGS,
    "eval.protocol": ("all_vs_all", "gallery"),
    "eval.kmeans": grouping.KMEANS,
    "eval.nmi": ("never", "last", "always"),
    "eval.select": ("last", "best_test"),
    "checkpoint.on_failure": ("stop", "go_on"),
}
# Least and greatest value.
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "dataset.resize": (1, math.inf),
    "dataset.crop": (1, math.inf),
    "dataset.num_threads": (0, 1024),
    "loss.memory_size": (0, math.inf),
    "loss.memory_from_epoch": (0, math.inf),
    "model.width": (1, math.inf),
    "model.embedding_dim": (2, math.inf),
    "model.dropout": (0, 0.99),
    "model.orthogonality_weight": (0, math.inf),
    "division.every_epochs": (1, math.inf),
    "division.num_trials": (1, math.inf),
    "division.num_iterations": (1, math.inf),
    "division.freeze_backbone_epochs": (0, math.inf),
    "sampling.images_per_class": (1, math.inf),
    "sampling.clusters_per_step": (1, math.inf),
    "devices.cluster_parallel": (1, math.inf),
    "optimizer.learning_rate": (0, math.inf),
    "optimizer.embedding_multiplier": (0, math.inf),
    "optimizer.masks_multiplier": (0, math.inf),
    "optimizer.loss_learning_rate": (0, math.inf),
    "optimizer.weight_decay": (0, math.inf),
    "optimizer.masks_decay_multiplier": (0, math.inf),
    "train.num_epochs": (1, math.inf),
    "train.full_embedding_from_epoch": (-1, math.inf),
    "train.log_every_steps": (1, math.inf),
    "eval.every_epochs": (0, math.inf),
    "eval.batch_size": (1, math.inf),
    "eval.gallery_draws": (1, math.inf),
    "eval.nmi_runs": (1, math.inf),
    "checkpoint.every_epochs": (0, math.inf),
    "checkpoint.keep_latest": (1, math.inf),
    "checkpoint.keep_best": (0, math.inf),
}


def check_evaluation(config: ConfigDict) -> None:
    """Checks, without data, every setting by itself and those that an evaluation needs.

    Raises:
      InputError: naming the setting, its value and what is allowed.
    """
    flat = resuming.flatten(config.to_dict())
    resuming.check_complete(flat, _KNOWN.keys() | _RANGES.keys())
    for key, known in _KNOWN.items():
        if flat[key] not in known:
            raise InputError(f"Unknown {key} {flat[key]!r}; known are {', '.join(known)}.")
    for key, (low, high) in _RANGES.items():
        if not low <= flat[key] <= high or not math.isfinite(flat[key]):
            end = "" if high == math.inf else f" and at most {high}"
            raise InputError(f"{key} must be at least {low}{end}, got {flat[key]}.")
    if config.dataset.crop > config.dataset.resize:
        raise InputError(
            f"Require dataset.crop <= dataset.resize, got {config.dataset.crop} and "
            f"{config.dataset.resize}."
        )
    evaluating = config.eval
    ks = tuple(evaluating.ks)
    if not ks or not all(type(k) is int and k >= 1 for k in ks):
        raise InputError(f"eval.ks must hold whole numbers from 1 on, got {ks}.")
    scores = (*(f"recall_at_{k}" for k in evaluating.ks), *_SCORES)
    if evaluating.best_by not in scores:
        raise InputError(
            f"Unknown eval.best_by {evaluating.best_by!r}; known are {', '.join(scores)}."
        )


def check_training(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Checks, without data, every setting.

    Raises:
      InputError: naming the setting, its value and what is allowed.
    """
    check_evaluation(config)
    # A model that is loaded runs on any number of devices: there, batches are rounded up.
    devices.check_divides("eval.batch_size", config.eval.batch_size, mesh.size, "devices")
    sampled = config.sampling
    width, parallel = mesh.shape["data"], mesh.shape["cluster"]
    devices.check_divides(
        "sampling.batch_size",
        sampled.batch_size,
        width,
        "devices of a batch",
        also=sampled.images_per_class if sampled.sampler == "balanced" else 1,
    )
    devices.check_divides(
        "sampling.clusters_per_step", sampled.clusters_per_step, parallel, "batches side by side"
    )
    dividing = config.division
    freeze, period = dividing.freeze_backbone_epochs, dividing.every_epochs
    if dividing.max_clusters > 1 and freeze >= period:
        raise InputError(
            "Require division.freeze_backbone_epochs < division.every_epochs, got "
            f"{freeze} and {period}: the backbone would never be trained."
        )
    if config.model.masks == "fixed" and config.model.embedding_dim < dividing.max_clusters:
        raise InputError(
            "Fixed masks share out the embedding: require model.embedding_dim >= "
            f"division.max_clusters, got {config.model.embedding_dim} and {dividing.max_clusters}."
        )
    own = plugins.is_own(config.model.backbone)
    if own and config.model.pretrained:
        raise InputError(
            f"model.pretrained has weights of a ResNet, but model.backbone={config.model.backbone} "
            "is your own; leave it empty, and load its weights where they are initialised."
        )
    if config.model.batch_norm == "frozen" and not config.model.pretrained and not own:
        raise InputError(
            "model.batch_norm=frozen keeps the statistics of published weights, but "
            "model.pretrained is ''; give a file or a name on the hub as timm/resnet50.tv_in1k, or "
            "model.batch_norm=train."
        )
    size, from_epoch = config.loss.memory_size, config.loss.memory_from_epoch
    if size and from_epoch >= config.train.num_epochs:
        raise InputError(
            "A memory is compared with from epoch loss.memory_from_epoch on: require it below "
            f"train.num_epochs, got {from_epoch} and {config.train.num_epochs}."
        )
    per_step = config.sampling.batch_size * config.sampling.clusters_per_step
    if 0 < size < per_step:
        raise InputError(
            f"A memory holds the {per_step} images of a step or more: require loss.memory_size >= "
            f"{per_step}, or 0 for none, got {size}."
        )
    cache, augment = config.dataset.cache, config.augment
    if cache != "none" and augment.crop == "random_resized":
        raise InputError(
            f"dataset.cache={cache} holds images at dataset.resize: require augment.crop="
            "resize_then_random or resize_then_random_resized, or dataset.cache=none, got "
            f"augment.crop={augment.crop}."
        )
    if cache == "device" and augment.strategy != "standard":
        raise InputError(
            "dataset.cache=device makes crops and flips only: require augment.strategy=standard, "
            f"or dataset.cache=memory, disk or none, got augment.strategy={augment.strategy}."
        )
    if config.eval.select == "best_test" and not config.checkpoint.keep_best:
        raise InputError("eval.select=best_test requires checkpoint.keep_best >= 1, got 0.")


def check_query(config: ConfigDict, splits: datasets.Splits) -> None:
    """Checks that there is something to retrieve by the protocol, at every k.

    Raises:
      InputError: naming the setting, its value and what is allowed.
    """
    draws_gallery = config.eval.protocol == "gallery"
    if draws_gallery and splits.gallery is not None:
        raise InputError(
            "eval.protocol=gallery draws a gallery from the test images, but dataset "
            f"{config.dataset.name!r} has one of its own, which its protocol fixes; take "
            "eval.protocol=all_vs_all, with which queries search that gallery."
        )
    gallery = splits.query if splits.gallery is None else splits.gallery
    found, counts = np.unique(gallery.labels, return_counts=True)
    answered = np.isin(splits.query.labels, found[counts > (splits.gallery is None)])
    if len(found) < 2 or not answered.any():
        raise InputError(
            "Retrieval is scored on images of two classes or more, with another image of a query's "
            f"own class to find; got {len(found)} test classes, and {answered.sum()} of "
            f"{len(answered)} queries have one. Add test images or classes."
        )
    searched = len(found) if draws_gallery else len(gallery) - (splits.gallery is None)
    if max(config.eval.ks) > searched:
        raise InputError(
            f"eval.ks must lie in 1 to {searched}, the images that a query searches, got "
            f"{tuple(config.eval.ks)}."
        )


def check_data(config: ConfigDict, splits: datasets.Splits) -> None:
    """Checks that the data allow the division, the batches and the evaluation.

    Raises:
      InputError: naming the setting, its value and what is allowed.
    """
    train, max_clusters = splits.train, config.division.max_clusters
    by_super_class = config.division.grouping == "labels" and max_clusters > 1
    division.check(
        train.labels,
        max_clusters=max_clusters,
        hierarchy=config.division.hierarchy,
        super_classes=train.super_class_labels if by_super_class else None,
    )
    sampling.check(train.labels, **config.sampling)
    check_query(config, splits)
