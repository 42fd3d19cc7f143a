"""Checks of settings and data, before anything compiles."""

from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from dcjax import losses
from dcjax.core import plugins
from dcjax.core.errors import DcjaxError, InputError, MissingFileError, SettingError
from dcjax.data import datasets
from dcjax.data.datasets import validation
from dcjax.distributed import devices
from dcjax.division import division, sampling
from dcjax.experiment import cameras, inputs, parts, scoring, settings
from dcjax.models import backbones, pretrained, resnet, vit
from dcjax.retrieval import evaluation, metrics, thresholds

_SCORES = ("map_at_r", "marp_paper", "r_precision")


def check_evaluation(config: ConfigDict) -> None:
    """Checks, without data, each setting, and combinations that an evaluation uses.

    Raises:
      SettingError: naming the setting, its value and what is allowed.
    """
    settings.check(config)
    _check_features(config)
    if config.dataset.crop > config.dataset.resize:
        raise SettingError(
            f"Require dataset.crop <= dataset.resize, got {config.dataset.crop} and "
            f"{config.dataset.resize}."
        )
    only_cross_camera = ("map",) if config.eval.protocol == "cross_camera" else ()
    scores = (*(f"recall_at_{k}" for k in config.eval.ks), *_SCORES, *only_cross_camera)
    scores += tuple(map(evaluation.score_of_dim, scoring.scored_dims(config)))
    if config.eval.best_by not in scores:
        raise SettingError(
            f"eval.best_by must be one of {', '.join(scores)}, got {config.eval.best_by!r}."
        )
    dims, embedding_dim = config.eval.dims, config.model.embedding_dim
    if dims and max(dims) > embedding_dim:
        raise SettingError(
            f"eval.dims must be at most model.embedding_dim={embedding_dim}, got {tuple(dims)}."
        )


def check_training(config: ConfigDict) -> Mesh:
    """Checks, without data, each setting and all combinations of settings.

    Returns:
      The device mesh.

    Raises:
      SettingError: naming the setting, its value and what is allowed.
    """
    check_evaluation(config)
    validation.check_options(inputs.hold_out(config.dataset))
    mesh = devices.create_mesh(cluster_parallel=config.devices.cluster_parallel)
    # Not for a model that is loaded, which rounds its batches up for any number of devices.
    devices.check_divides("eval.batch_size", config.eval.batch_size, mesh.size, "devices")
    _check_sampling(config.sampling, mesh)
    _check_chunks(config.model, config.sampling, mesh)
    _check_division(config.division, config.model)
    _check_matryoshka(config)
    _check_weights(config.model)
    _check_end(config.train)
    _check_memory(config.loss, config.sampling, config.train)
    if parts.trains_backbone(config.model):  # else features are kept, not the images
        _check_cache(config.dataset, config.augment)
    if config.dataset.feature_views and not parts.keeps_features(config.model):
        raise SettingError(
            "dataset.feature_views are of images whose features are made once: require 0, or "
            f"model.train=embedding with a backbone, got {config.dataset.feature_views}, "
            f"model.train={config.model.train} and model.backbone={config.model.backbone}."
        )
    select = config.eval.select
    if select in ("best", "best_test") and not config.checkpoint.keep_best:
        raise SettingError(f"eval.select={select} requires checkpoint.keep_best >= 1, got 0.")
    if config.train.stop_after and not config.eval.every_epochs:
        raise SettingError(
            "train.stop_after counts evaluations: require eval.every_epochs >= 1, got 0."
        )
    try:
        parts.trained_modules(config.model, parts.create_model(config))
        parts.create_optimizer(config.optimizer, config.model.backbone)
        parts.create_rates(config.optimizer, config.train.num_epochs)
        if config.model.backbone in vit.SIZES:
            vit.check_size("dataset.crop", config.dataset.crop, config.model.vit.patch_size)
        if plugins.is_custom(config.loss.name):  # which may need the real number of classes
            plugins.load(config.loss.name, losses.Loss)
        else:
            parts.create_loss(config, class_sizes=np.ones(2, int))
    except InputError as error:
        raise SettingError(str(error)) from error
    return mesh


def _check_features(config: ConfigDict) -> None:
    name, backbone = config.dataset.name, config.model.backbone
    has_features, has_backbone = name == "features", backbone != backbones.NONE
    if has_features == has_backbone:
        raise SettingError(
            "Features in the place of images have no backbone: require dataset.name=features and "
            f"model.backbone=none together, got dataset.name={name} and model.backbone={backbone}."
        )
    if has_features and config.eval.pixels:
        raise SettingError("dataset.name=features has no pixels: require eval.pixels=False.")


def _check_sampling(sampled: ConfigDict, mesh: Mesh) -> None:
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
    sampling.check_options(**sampled)


def _check_chunks(model: ConfigDict, sampled: ConfigDict, mesh: Mesh) -> None:
    size, images = model.chunk_size, sampled.batch_size * sampled.clusters_per_step
    if size and not parts.trains_backbone(model):
        raise SettingError(
            "Chunks of a batch go through a backbone that is trained: require model.chunk_size=0 "
            f"with model.train={model.train} and model.backbone={model.backbone}, got {size}."
        )
    if size % mesh.size or (size and images % size):
        fitting = [n for n in range(mesh.size, images + 1, mesh.size) if images % n == 0]
        nearest = sorted(sorted(fitting, key=lambda n: abs(n - size))[:2])
        raise SettingError(
            f"model.chunk_size must divide the {images} images of a step (sampling.batch_size "
            f"times sampling.clusters_per_step) and be a multiple of the devices ({mesh.size}), "
            f"got {size}; {' or '.join(map(str, nearest))} would do, or 0 for all at once."
        )


def _check_division(dividing: ConfigDict, model: ConfigDict) -> None:
    division.check_options(max_clusters=dividing.max_clusters, hierarchy=dividing.hierarchy)
    freeze, period = dividing.freeze_backbone_epochs, dividing.every_epochs
    if parts.trains_backbone(model) and dividing.max_clusters > 1 and freeze >= period:
        raise SettingError(
            "Require division.freeze_backbone_epochs < division.every_epochs, got "
            f"{freeze} and {period}: the backbone would never be trained."
        )
    if model.masks == "fixed" and model.embedding_dim < dividing.max_clusters:
        raise SettingError(
            "Fixed masks share out the embedding: require model.embedding_dim >= "
            f"division.max_clusters, got {model.embedding_dim} and {dividing.max_clusters}."
        )


def _check_matryoshka(config: ConfigDict) -> None:
    dims, max_clusters = config.loss.matryoshka, config.division.max_clusters
    if dims and config.model.masks == "fixed" and max_clusters > 1:
        raise SettingError(
            "Fixed masks give each cluster other coordinates, so that the first ones are of some "
            "clusters only: loss.matryoshka requires model.masks=learned or none, or "
            f"division.max_clusters=1, got model.masks=fixed and {max_clusters} clusters."
        )


def _check_weights(model: ConfigDict) -> None:
    if model.backbone == backbones.NONE and model.pretrained:
        raise SettingError(
            "model.pretrained has weights of a backbone: leave it empty with model.backbone=none, "
            f"got {model.pretrained!r}."
        )
    if plugins.is_custom(model.backbone) and model.pretrained:
        raise SettingError(
            f"model.pretrained has weights of {', '.join(backbones.NAMES)}, but model.backbone="
            f"{model.backbone} is your own; leave it empty, and load its weights where they are "
            "initialised."
        )


def _check_end(train: ConfigDict) -> None:
    if train.until_epoch > train.num_epochs:
        raise SettingError(
            "Require train.until_epoch <= train.num_epochs, got "
            f"{train.until_epoch} and {train.num_epochs}."
        )
    if train.num_steps and (train.until_epoch or train.refit):
        raise SettingError(
            "train.num_steps ends a run after steps, train.until_epoch and train.refit after an "
            f"epoch: require train.num_steps=0 with them, got {train.num_steps}, "
            f"train.until_epoch={train.until_epoch} and train.refit={train.refit}."
        )


def _check_memory(loss: ConfigDict, sampled: ConfigDict, train: ConfigDict) -> None:
    size, from_epoch = loss.memory_size, loss.memory_from_epoch
    if size and not train.num_steps and from_epoch >= train.num_epochs:
        raise SettingError(
            "A memory is compared with from epoch loss.memory_from_epoch on: require it below "
            f"train.num_epochs, got {from_epoch} and {train.num_epochs}."
        )
    per_step = sampled.batch_size * sampled.clusters_per_step
    if 0 < size < per_step:
        raise SettingError(
            f"A memory holds the {per_step} images of a step or more: require loss.memory_size >= "
            f"{per_step}, or 0 for none, got {size}."
        )


def _check_cache(dataset: ConfigDict, augment: ConfigDict) -> None:
    cache = dataset.cache
    if cache != "none" and augment.crop == "random_resized":
        raise SettingError(
            f"dataset.cache={cache} holds images at dataset.resize: require augment.crop="
            "resize_then_random or resize_then_random_resized, or dataset.cache=none, got "
            f"augment.crop={augment.crop}."
        )
    if cache == "device" and augment.strategy != "standard":
        raise SettingError(
            "dataset.cache=device makes crops and flips only: require augment.strategy=standard, "
            f"or dataset.cache=memory, disk or none, got augment.strategy={augment.strategy}."
        )


def missing_weights(model: ConfigDict, *, download: bool) -> str:
    """Returns which published weights a new run lacks and how to get them, "" if none."""
    if plugins.is_custom(model.backbone):
        return ""
    if not model.pretrained:
        if model.batch_norm == "train" or model.backbone not in resnet.BACKBONES:
            return ""  # there are no statistics to keep
        return (
            "model.batch_norm=frozen keeps the statistics of published weights, but "
            "model.pretrained is ''; give --config.model.pretrained=FILE, or a name on the hub as "
            "timm/resnet50.tv_in1k with --config.dataset.download=true, or "
            "--config.model.batch_norm=train for random weights."
        )
    try:
        pretrained.check(model.pretrained, download=download)
    except MissingFileError as error:
        return str(error)
    return ""


def check_present(model: ConfigDict, dataset: ConfigDict) -> None:
    """Checks that the weights of a new run are there or may be downloaded.

    Raises:
      MissingFileError: if they are not; also names missing data.
    """
    if not (missing := missing_weights(model, download=dataset.download)):
        return
    offline = dataset.copy_and_resolve_references()
    offline.download = False  # no gigabytes for a run that cannot begin
    try:
        inputs.load_index(offline)
    except DcjaxError as error:
        missing = f"{error} Also: {missing}"
    raise MissingFileError(missing)


def check_query(config: ConfigDict, splits: datasets.Splits) -> None:
    """Checks that the protocol has images to retrieve, for every k.

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
    sets = splits.test_sets
    labels = [images.labels for images in sets]
    compared = cameras.compared([images.cameras for images in sets], config.eval)
    check_retrieval(
        *labels, ks=config.eval.ks, draws_gallery=draws_gallery, compared_cameras=compared
    )
    check_scores_on_host(config.eval, labels, compared)


def check_scores_on_host(
    settings: ConfigDict,
    labels: Sequence[np.ndarray],
    compared_cameras: Sequence[np.ndarray] | None,
) -> None:
    """Checks that re-ranking and FMRs, if the settings `eval` want them, have what they need.

    Args:
      settings: the group `eval`.
      labels: of the queries and, if there is one, the gallery.
      compared_cameras: of each, see `cameras.compared`.

    Raises:
      InputError: if there is no gallery to rank anew, or there are too few pairs for an FMR.
    """
    if settings.rerank and len(labels) == 1:
        raise InputError(
            "eval.rerank ranks a gallery anew for each query, but the test images are queries and "
            "gallery in one; take eval.rerank=False, or a data set or table with a gallery."
        )
    thresholds.check(*labels, rates=settings.fmr, cameras=compared_cameras)


def check_retrieval(
    query: np.ndarray,
    gallery: np.ndarray | None = None,
    *,
    ks: Sequence[int],
    draws_gallery: bool,
    compared_cameras: Sequence[np.ndarray] | None = None,
    name: str = "eval.ks",
    what: str = "test",
) -> None:
    """Checks that there is something to retrieve, for every k.

    Args:
      query: labels of the queries.
      gallery: labels of what they search; None: each query searches all others.
      ks: of recall at k.
      draws_gallery: whether queries search one image of each class instead.
      compared_cameras: of the queries and the gallery, see `cameras.compared`.
      name: of the setting or flag of ks.
      what: the images are for, in the message.

    Raises:
      InputError: saying what is there and what is required.
    """
    searched = query if gallery is None else gallery
    classes, counts = np.unique(searched, return_counts=True)
    is_answerable = np.isin(query, classes[counts > (gallery is None)])
    if compared_cameras is not None:
        is_answerable = metrics.is_answerable(query, searched, compared_cameras)
    if len(classes) < 2 or not is_answerable.any():
        raise InputError(
            "Retrieval is scored on images of two classes or more, with another image of a query's "
            f"own class to find; got {len(classes)} {what} classes, and {is_answerable.sum()} of "
            f"{len(is_answerable)} queries have one"
            f"{'' if compared_cameras is None else ' that another camera took'}. "
            f"Add {what} images or classes."
        )
    num_searched = len(classes) if draws_gallery else len(searched) - (gallery is None)
    if max(ks) > num_searched:
        raise InputError(
            f"{name} must lie in 1 to {num_searched}, the images that a query searches, got "
            f"{tuple(ks)}."
        )


def check_data(config: ConfigDict, splits: datasets.Splits) -> None:
    """Checks that the data allow the division, the batches, the loss and the evaluation.

    Raises:
      InputError: naming the setting, its value and what is allowed.
    """
    check_classes(config, splits)
    parts.create_loss(config, splits.train.class_sizes)
    check_query(config, splits)
    if splits.validation is None:
        _check_no_choice(config)


def check_classes(config: ConfigDict, splits: datasets.Splits) -> None:
    """Checks that training classes allow division and batches, validation classes an evaluation.

    Raises:
      InputError: naming the setting, its value and what is allowed.
    """
    try:
        _check_training_images(config, splits.train)
    except InputError as error:
        if splits.validation is None:
            raise
        raise InputError(
            f"{splits.validation.num_classes} classes are held out for validation, and "
            f"{splits.train.num_classes} are left to train on: {error} Or hold out fewer."
        ) from error
    if splits.validation is not None:
        check_retrieval(
            splits.validation.labels,
            ks=config.eval.ks,
            draws_gallery=False,
            compared_cameras=cameras.compared([splits.validation.cameras], config.eval),
            name="eval.ks, with validation classes,",
            what="validation",
        )


def _check_no_choice(config: ConfigDict) -> None:
    """Checks that nothing is to be chosen by validation classes, since there are none."""
    wanted = ["eval.select=best"] if config.eval.select == "best" else []
    if config.train.stop_after:
        wanted.append(f"train.stop_after={config.train.stop_after}")
    wanted += ["train.refit=True"] if config.train.refit else []
    if wanted:
        raise InputError(
            f"{wanted[0]} chooses by validation classes, and there are none: hold some out, as by "
            f"dataset.validation_classes=0.2, or leave out {wanted[0]}."
        )


def _check_training_images(config: ConfigDict, train: datasets.ImageSet) -> None:
    max_clusters = config.division.max_clusters
    by_super_class = config.division.grouping == "labels" and max_clusters > 1
    division.check(
        train.labels,
        max_clusters=max_clusters,
        hierarchy=config.division.hierarchy,
        super_classes=train.super_class_labels if by_super_class else None,
    )
    sampling.check(train.labels, **config.sampling)
