"""The parts of one experiment, made from its config."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from dcjax import (
    crops,
    datasets,
    decoding,
    device_cache,
    devices,
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
ReadImages = Callable[[datasets.ImageSet], pipeline.Reader]
TrainStep = Callable[..., tuple[state.TrainState, steps.Metrics]]
Weights = tuple[dict[str, Any], dict[str, Any]]  # parameters and running statistics


def load_splits(config: ConfigDict) -> tuple[datasets.Splits, int]:
    """Loads the image sets and counts the images left out because they cannot be read."""
    options = {name: config.dataset[name] for name in datasets.known_options(config.dataset.name)}
    splits = datasets.load(config.dataset.name, root=config.dataset.root, **options)
    sets = {"train": splits.train, "query": splits.query, "gallery": splits.gallery}
    read = {
        name: decoding.readable(images, skip_unreadable=config.dataset.skip_unreadable)
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
        convolution=model.convolution,
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


def variable_shapes(config: ConfigDict, model: models.MaskedEmbedder) -> dict[str, Any]:
    """Returns the model's variables as shapes and types, without drawing or compiling any."""
    size = config.dataset.crop
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3), jnp.uint8))


def load_pretrained(config: ConfigDict, model: models.MaskedEmbedder) -> Weights | None:
    """Loads published weights of the backbone, None if there are none to start from."""
    if not config.model.pretrained:
        return None
    shapes = variable_shapes(config, model)
    return pretrained.load(
        config.model.pretrained, shapes["params"]["backbone"], shapes["batch_stats"]["backbone"]
    )


def create_state(
    config: ConfigDict,
    model: models.MaskedEmbedder,
    loss: losses.Loss,
    optimizer: optax.GradientTransformation,
    weights: Weights | None,
) -> state.TrainState:
    """Draws the first state, with these weights of the backbone if there are any."""
    fresh = state.create(
        model,
        loss,
        optimizer,
        key=jax.random.fold_in(jax.random.key(config.seed), 0),
        image_size=config.dataset.crop,
    )
    if weights is None:
        return fresh
    params, statistics = weights
    return fresh.replace(
        params={**fresh.params, "backbone": params}, batch_stats={"backbone": statistics}
    )


def create_augment(config: ConfigDict) -> crops.Augmentation:
    """Builds the training augmentation."""
    return crops.Augmentation(
        config.augment.crop,
        size=config.dataset.crop,
        resize=config.dataset.resize,
        scale=tuple(config.augment.scale),
        ratio=tuple(config.augment.ratio),
        flip=config.augment.flip,
        strategy=config.augment.strategy,
    )


def create_reader(config: ConfigDict, images: datasets.ImageSet) -> pipeline.Stream:
    """Builds the reader of a set that is read once or from files."""
    return pipeline.Stream(
        images,
        create_augment(config),
        seed=config.seed,
        num_threads=config.dataset.num_threads or None,
    )


def create_readers(
    config: ConfigDict, splits: datasets.Splits, mesh: jax.sharding.Mesh
) -> ReadImages:
    """Builds the readers of all sets of a training run, which are read again and again."""
    sets = [x for x in (splits.train, splits.query, splits.gallery) if x is not None]
    streams = [create_reader(config, images) for images in sets]
    readers: dict[datasets.ImageSet, pipeline.Reader] = dict(zip(sets, streams, strict=True))
    if config.dataset.cache == "device":
        readers |= zip(sets, device_cache.create(streams, mesh), strict=True)
    return readers.__getitem__


def create_embed(
    config: ConfigDict, model: models.MaskedEmbedder, mesh: jax.sharding.Mesh, read: ReadImages
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
        read=read,
        sharding=rows,
        batch_size=config.eval.batch_size,
    )


def create_train_step(
    config: ConfigDict,
    model: models.MaskedEmbedder,
    loss: losses.Loss,
    optimizer: optax.GradientTransformationExtraArgs,
    mesh: jax.sharding.Mesh,
) -> TrainStep:
    """Returns the function (state, batch, controls, key) -> (state, metrics); the state is used up.

    Lambda of P21 eq. 7 is 0 for masks that are not learned.
    """
    whole, learned = devices.replicated(mesh), config.model.masks == "learned"
    step = functools.partial(
        steps.train_step,
        model=model,
        loss=loss,
        optimizer=optimizer,
        orthogonality_weight=config.model.orthogonality_weight if learned else 0.0,
    )
    return jax.jit(
        step,
        in_shardings=(whole, devices.batch_shardings(mesh), whole, whole),
        out_shardings=whole,
        donate_argnums=0,
    )


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
        read=functools.partial(create_reader, config),
        batch_size=config.eval.batch_size,
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
