"""Creates each part of an experiment from its settings."""

import numpy as np
import optax
from ml_collections import ConfigDict

from dcjax import losses
from dcjax.core import plugins
from dcjax.core.errors import InputError
from dcjax.data import crops
from dcjax.losses import mining
from dcjax.models import backbones, masked_embedder
from dcjax.training import optimizers, rates


def create_model(
    config: ConfigDict,
    *,
    convolution: str | None = None,
    attention: str | None = None,
    num_features: int = 0,
) -> masked_embedder.MaskedEmbedder:
    """Builds the masked embedder.

    Args:
      config: the experiment.
      convolution: replaces that of the config.
      attention: replaces that of the config.
      num_features: F, for a network without a backbone.
    """
    model = config.model
    return masked_embedder.create(
        model.backbone,
        num_stages=model.num_stages,
        width=model.width,
        batch_norm=model.batch_norm,
        convolution=convolution or model.convolution,
        custom=model.custom,
        vit={**model.vit, "attention": attention or model.vit.attention},
        pixels=model.pixels,
        precision=model.precision,
        rematerialize=model.rematerialize,
        embedding_dim=model.embedding_dim,
        max_clusters=config.division.max_clusters,
        pooling=model.pooling,
        dropout=model.dropout,
        embedding_init=model.embedding_init,
        test_masks=model.test_masks,
        cluster_parallel=config.devices.cluster_parallel,
        chunk_size=model.chunk_size,
        num_features=num_features,
    )


def trains_backbone(settings: ConfigDict) -> bool:
    """Returns whether a part of a backbone is trained."""
    return settings.backbone != backbones.NONE and settings.train != "embedding"


def keeps_features(settings: ConfigDict) -> bool:
    """Returns whether the features of images are made once, by a backbone that is not trained."""
    return settings.backbone != backbones.NONE and settings.train == "embedding"


def trained_modules(
    settings: ConfigDict, model: masked_embedder.MaskedEmbedder
) -> frozenset[str] | None:
    """Returns the names of the backbone's modules that are trained; None: all of them."""
    return backbones.trained_modules(model.backbone, settings.train, settings.last_blocks)


def create_loss(config: ConfigDict, class_sizes: np.ndarray) -> losses.Loss:
    """Builds the metric-learning loss for training classes of so many images [num_classes]."""
    name, options = config.loss.name, {}
    if plugins.is_custom(name) or name in losses.KNOWN:
        options = dict(config.loss.custom if plugins.is_custom(name) else config.loss[name])
    if "miner" in options:
        options["miner"] = _create_miner(config.mining, options["miner"])
    try:
        loss = losses.create(
            name,
            num_classes=len(class_sizes),
            embedding_dim=config.model.embedding_dim,
            class_sizes=class_sizes,
            matryoshka=config.loss.matryoshka,
            **options,
        )
    except InputError as error:  # which names the option alone: several losses may have it
        raise InputError(f"loss.name={name}: {error}") from error
    if config.loss.memory_size and "memory" not in loss.takes:
        raise InputError(
            "A cross-batch memory is for losses that compare images with each other, got "
            f"loss.memory_size={config.loss.memory_size} with loss.name={name!r}; set it to 0."
        )
    return loss


def _create_miner(options: ConfigDict, name: str) -> mining.Miner:
    if plugins.is_custom(name):
        return mining.create(name, **options.custom)
    return mining.create(name, **{key: options[key] for key in mining.options_of(name)})


def create_optimizer(optimizer: ConfigDict, backbone: str) -> optax.GradientTransformationExtraArgs:
    """Builds the optimizer of all parameter groups, for the named backbone."""
    decay, name = optimizer.weight_decay, optimizer.name
    return optimizers.create(
        name=name,
        decay=optimizer.decay,
        clip_norm=optimizer.clip_norm,
        layer_factors=backbones.layer_factors(backbone, optimizer.layer_decay),
        weight_decays={
            "backbone": decay,
            "embedding": decay,
            "masks": decay * optimizer.masks_decay_multiplier,
            "loss": 0.0,
        },
        **(optimizer[name] if name in optimizers.OPTIMIZERS else {}),
    )


def create_rates(optimizer: ConfigDict, num_epochs: int) -> rates.Schedule | None:
    """Builds the schedule of the learning rates; None if they are constant."""
    return rates.create(
        num_epochs=num_epochs,
        schedule=optimizer.schedule,
        warmup_epochs=optimizer.warmup_epochs,
        final_share=optimizer.final_share,
        step_epochs=optimizer.step_epochs,
        step_factor=optimizer.step_factor,
    )


def create_augmentation(augment: ConfigDict, dataset: ConfigDict) -> crops.Augmentation:
    """Builds the training augmentation."""
    return crops.Augmentation(
        augment.crop,
        size=dataset.crop,
        resize=dataset.resize,
        scale=tuple(augment.scale),
        ratio=tuple(augment.ratio),
        flip=augment.flip,
        strategy=augment.strategy,
    )
