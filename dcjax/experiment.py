"""The parts of one experiment, made from its config."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from dcjax import (
    augment,
    datasets,
    devices,
    division,
    evaluation,
    losses,
    models,
    optimizers,
    pipeline,
    pretrained,
    state,
    steps,
)

EmbedImages = Callable[..., np.ndarray]


def num_threads(config: ConfigDict) -> int | None:
    """Returns the number of decoding threads, None for tf.data's choice."""
    return config.dataset.num_threads or None


def load_splits(config: ConfigDict) -> tuple[datasets.Splits, int]:
    """Loads the image sets and counts the images left out because they cannot be read."""
    options = {name: config.dataset[name] for name in datasets.known_options(config.dataset.name)}
    splits = datasets.load(config.dataset.name, root=config.dataset.root, **options)
    sets = {"train": splits.train, "query": splits.query, "gallery": splits.gallery}
    read = {
        name: pipeline.readable(images, skip_unreadable=config.dataset.skip_unreadable)
        for name, images in sets.items()
        if images is not None
    }
    kept = datasets.Splits(**{name: images for name, (images, _) in read.items()})
    return kept, sum(count for _, count in read.values())


def create_model(config: ConfigDict) -> models.MaskedEmbedder:
    """Builds the masked embedder."""
    model = config.model
    return models.create(
        model.backbone,
        num_stages=model.num_stages,
        width=model.width,
        batch_norm=model.batch_norm,
        embedding_dim=model.embedding_dim,
        max_clusters=config.division.max_clusters,
        pooling=model.pooling,
        dropout=model.dropout,
        test_masks=model.test_masks,
    )


def create_loss(config: ConfigDict, num_classes: int) -> losses.Loss:
    """Builds the metric-learning loss."""
    name = config.loss.name
    options = {**config.loss[name], **config.mining} if name in losses.KNOWN else {}
    return losses.create(
        name, num_classes=num_classes, embedding_dim=config.model.embedding_dim, **options
    )


def create_optimizer(config: ConfigDict) -> optax.GradientTransformationExtraArgs:
    """Builds the optimiser of all parameter groups."""
    decay = config.optimizer.weight_decay
    return optimizers.create(
        decay=config.optimizer.decay,
        weight_decays={
            "backbone": decay,
            "embedding": decay,
            "masks": decay * config.optimizer.masks_decay_multiplier,
            "loss": 0.0,
        },
    )


def create_state(
    config: ConfigDict,
    model: models.MaskedEmbedder,
    loss: losses.Loss,
    optimizer: optax.GradientTransformation,
) -> state.TrainState:
    """Draws the first state."""
    return state.create(
        model,
        loss,
        optimizer,
        key=jax.random.fold_in(jax.random.key(config.seed), 0),
        image_size=config.dataset.crop,
    )


def load_pretrained(config: ConfigDict, fresh: state.TrainState) -> state.TrainState:
    """Puts the published weights into the backbone, if there are any."""
    if not config.model.pretrained:
        return fresh
    params, statistics = pretrained.load(
        config.model.pretrained, fresh.params["backbone"], fresh.batch_stats["backbone"]
    )
    return fresh.replace(
        params={**fresh.params, "backbone": params}, batch_stats={"backbone": statistics}
    )


def create_augment(config: ConfigDict) -> augment.Augment:
    """Builds the training augmentation."""
    return augment.create(
        config.augment.crop,
        size=config.dataset.crop,
        resize=config.dataset.resize,
        scale=tuple(config.augment.scale),
        ratio=tuple(config.augment.ratio),
        flip=config.augment.flip,
    )


def create_embed(
    config: ConfigDict, model: models.MaskedEmbedder, mesh: jax.sharding.Mesh
) -> EmbedImages:
    """Returns the function (images, variables, *, output) -> float32 [N, D or F]."""
    rows, whole = devices.rows_sharding(mesh), devices.replicated(mesh)
    step = jax.jit(
        functools.partial(steps.embed_step, model=model),
        in_shardings=(whole, rows),
        out_shardings=whole,
    )
    return functools.partial(
        evaluation.embed,
        step=step,
        sharding=rows,
        batch_size=config.eval.batch_size,
        resize=config.dataset.resize,
        crop=config.dataset.crop,
        num_threads=num_threads(config),
    )


def controls(config: ConfigDict, epoch: int) -> dict[str, Any]:
    """Returns what the schedule sets for an epoch, as `steps.train_step` takes it.

    The backbone stands still in the first epochs after each division (method of P21's released
    recipe), the masks once the full embedding is trained or if they are not learned.
    """
    rates, dividing = config.optimizer, config.division
    full = 0 <= config.train.full_embedding_from_epoch <= epoch
    frozen = (
        dividing.max_clusters > 1
        and epoch % dividing.every_epochs < dividing.freeze_backbone_epochs
    )
    learned = config.model.masks == "learned" and not full
    base = rates.learning_rate
    learning_rates = {
        "backbone": 0.0 if frozen else base,
        "embedding": base * rates.embedding_multiplier,
        "masks": base * rates.masks_multiplier if learned else 0.0,
        "loss": rates.loss_learning_rate,
    }
    return {
        "learning_rates": {group: np.float32(rate) for group, rate in learning_rates.items()},
        "full_embedding": np.bool_(full),
    }


def orthogonality_weight(config: ConfigDict) -> float:
    """Returns lambda of P21 eq. 7, 0 for masks that are not learned."""
    return config.model.orthogonality_weight if config.model.masks == "learned" else 0.0


def num_clusters(config: ConfigDict, epoch: int) -> int:
    """Returns K of an epoch."""
    return division.num_clusters_at(
        epoch,
        divide_every_epochs=config.division.every_epochs,
        max_clusters=config.division.max_clusters,
        hierarchy=config.division.hierarchy,
    )


def period(config: ConfigDict, epoch: int) -> int:
    """Returns the number of the division that holds in an epoch."""
    return 0 if config.division.max_clusters == 1 else epoch // config.division.every_epochs


def is_due(config: ConfigDict, every_epochs: int, epoch: int) -> bool:
    """Returns whether what happens every so many epochs happens after this one, or it is the last.

    `every_epochs` 0 means only after the last one.
    """
    done = epoch + 1
    return done == config.train.num_epochs or (every_epochs > 0 and done % every_epochs == 0)


def score(
    config: ConfigDict,
    splits: datasets.Splits,
    embed: EmbedImages,
    variables: dict[str, Any],
    epoch: int,
) -> dict[str, float]:
    """Scores the embedding after an epoch."""
    with_nmi = {"never": False, "last": epoch + 1 >= config.train.num_epochs, "always": True}
    return evaluation.evaluate(
        functools.partial(embed, variables=variables, output="embedding"),
        splits,
        ks=config.eval.ks,
        nmi_runs=config.eval.nmi_runs if with_nmi[config.eval.nmi] else 0,
    )


def score_pixels(config: ConfigDict, splits: datasets.Splits) -> dict[str, float]:
    """Scores the images' own pixels."""
    pixels = functools.partial(
        evaluation.pixels,
        batch_size=config.eval.batch_size,
        resize=config.dataset.resize,
        crop=config.dataset.crop,
    )
    nmi_runs = config.eval.nmi_runs if config.eval.nmi != "never" else 0
    return evaluation.evaluate(pixels, splits, ks=config.eval.ks, nmi_runs=nmi_runs)


def score_untrained(
    config: ConfigDict, splits: datasets.Splits, embed: EmbedImages, variables: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """Scores what there is before training: pooled backbone features, and pixels if wanted."""
    scores = {"raw pixels": score_pixels(config, splits)} if config.eval.pixels else {}
    backbone = functools.partial(embed, variables=variables, output="backbone")
    nmi_runs = config.eval.nmi_runs if config.eval.nmi == "always" else 0
    scores["backbone features"] = evaluation.evaluate(
        backbone, splits, ks=config.eval.ks, nmi_runs=nmi_runs
    )
    return scores
