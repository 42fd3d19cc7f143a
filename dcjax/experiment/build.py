"""The parts of one experiment, made from its config."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from dcjax import losses
from dcjax.core import plugins, streams
from dcjax.core.errors import InputError, file_errors
from dcjax.data import datasets
from dcjax.distributed import devices
from dcjax.experiment import inputs
from dcjax.losses import mining
from dcjax.models import masked_embedder, pretrained
from dcjax.retrieval import evaluation
from dcjax.training import optimizers, state, steps

EmbedImages = Callable[..., jax.Array]
TrainStep = Callable[..., tuple[state.TrainState, steps.Metrics]]
Weights = tuple[dict[str, Any], dict[str, Any]]  # parameters and running statistics


def create_model(config: ConfigDict) -> masked_embedder.MaskedEmbedder:
    """Builds the masked embedder."""
    model = config.model
    return masked_embedder.create(
        model.backbone,
        num_stages=model.num_stages,
        width=model.width,
        batch_norm=model.batch_norm,
        convolution=model.convolution,
        own=model.own,
        precision=model.precision,
        embedding_dim=model.embedding_dim,
        max_clusters=config.division.max_clusters,
        pooling=model.pooling,
        dropout=model.dropout,
        test_masks=model.test_masks,
        cluster_parallel=config.devices.cluster_parallel,
    )


def create_loss(config: ConfigDict, num_classes: int) -> losses.Loss:
    """Builds the metric-learning loss."""
    name, options = config.loss.name, {}
    if plugins.is_own(name) or name in losses.KNOWN:
        options = dict(config.loss.own if plugins.is_own(name) else config.loss[name])
    if "miner" in options:
        options["miner"] = create_miner(config, options["miner"])
    loss = losses.create(
        name, num_classes=num_classes, embedding_dim=config.model.embedding_dim, **options
    )
    if config.loss.memory_size and "memory" not in loss.takes:
        raise InputError(
            "A cross-batch memory is for losses that compare images with each other, got "
            f"loss.memory_size={config.loss.memory_size} with loss.name={name!r}; set it to 0."
        )
    return loss


def create_miner(config: ConfigDict, name: str) -> mining.Miner:
    """Builds the miner called name."""
    if plugins.is_own(name):
        return mining.create(name, **config.mining.own)
    return mining.create(name, **{key: config.mining[key] for key in mining.options_of(name)})


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


def variable_shapes(config: ConfigDict, model: masked_embedder.MaskedEmbedder) -> dict[str, Any]:
    """Returns the model's variables as shapes and types, without drawing or compiling any."""
    size = config.dataset.crop
    key = streams.device_key(config.seed, streams.DeviceStream.INITIALIZATION)
    return jax.eval_shape(model.init, key, jnp.zeros((1, size, size, 3), jnp.uint8))


def load_pretrained(
    config: ConfigDict, model: masked_embedder.MaskedEmbedder, say: Callable[[str], None]
) -> Weights | None:
    """Loads published weights of the backbone, None if there are none to start from.

    Args:
      config: the experiment.
      model: gives names and shapes.
      say: gets a line about each choice that is made, see `pretrained.load`.
    """
    if not config.model.pretrained:
        return None
    shapes = variable_shapes(config, model)
    with file_errors(f"Cannot read model.pretrained={config.model.pretrained!r}"):
        return pretrained.load(
            config.model.pretrained,
            shapes["params"]["backbone"],
            shapes["batch_stats"]["backbone"],
            download=config.dataset.download,
            say=say,
        )


def create_state(
    config: ConfigDict,
    model: masked_embedder.MaskedEmbedder,
    loss: losses.Loss,
    optimizer: optax.GradientTransformation,
    weights: Weights | None,
) -> state.TrainState:
    """Draws the first state, with these weights of the backbone if there are any."""
    fresh = state.create(
        model,
        loss,
        optimizer,
        key=streams.device_key(config.seed, streams.DeviceStream.INITIALIZATION),
        image_size=config.dataset.crop,
        memory_size=config.loss.memory_size,
    )
    if weights is None:
        return fresh
    params, statistics = weights
    return fresh.replace(
        params={**fresh.params, "backbone": params}, batch_stats={"backbone": statistics}
    )


def state_shapes(
    config: ConfigDict,
    model: masked_embedder.MaskedEmbedder,
    loss: losses.Loss,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> state.TrainState:
    """Returns the shapes, types and shardings of the state, without drawing or compiling it."""
    shapes = jax.eval_shape(lambda: create_state(config, model, loss, optimizer, None))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        state.shardings(shapes, mesh),
    )


def create_embed(
    config: ConfigDict,
    model: masked_embedder.MaskedEmbedder,
    mesh: jax.sharding.Mesh,
    read: inputs.ReadImages,
) -> EmbedImages:
    """Returns the function (images, variables, *, output) -> float32 [N', D or F], spread."""
    rows, whole = devices.rows_sharding(mesh), devices.replicated(mesh)
    step = jax.jit(
        functools.partial(steps.embed_step, model=model),
        in_shardings=(whole, rows),
        out_shardings=rows,
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
    model: masked_embedder.MaskedEmbedder,
    loss: losses.Loss,
    optimizer: optax.GradientTransformationExtraArgs,
    mesh: jax.sharding.Mesh,
    shardings: state.TrainState,
) -> TrainStep:
    """Returns the function (state, batch, controls, key) -> (state, metrics); the state is used up.

    Lambda of P21 eq. 7 is 0 for masks that are not learned. The state lives as `state.shardings`
    says.
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
        in_shardings=(shardings, devices.batch_shardings(mesh), whole, whole),
        out_shardings=(shardings, whole),
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
        nmi_runs=config.eval.nmi_runs if with_nmi[config.eval.nmi] else 0,
        **_protocol(config),
    )


def score_pixels(config: ConfigDict, splits: datasets.Splits) -> dict[str, float]:
    """Scores the images' own pixels."""
    pixels = functools.partial(
        evaluation.pixels,
        read=functools.partial(inputs.create_reader, config),
        sharding=devices.rows_sharding(devices.create_mesh()),
        batch_size=config.eval.batch_size,
    )
    nmi_runs = config.eval.nmi_runs if config.eval.nmi != "never" else 0
    return evaluation.evaluate(pixels, splits, nmi_runs=nmi_runs, **_protocol(config))


def score_untrained(
    config: ConfigDict, splits: datasets.Splits, embed: EmbedImages, variables: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """Scores what there is before training: pooled backbone features, and pixels if wanted."""
    scores = {"raw pixels": score_pixels(config, splits)} if config.eval.pixels else {}
    backbone = functools.partial(embed, variables=variables, output="backbone")
    nmi_runs = config.eval.nmi_runs if config.eval.nmi == "always" else 0
    scores["backbone features"] = evaluation.evaluate(
        backbone, splits, nmi_runs=nmi_runs, **_protocol(config)
    )
    return scores


def _protocol(config: ConfigDict) -> dict[str, Any]:
    draws = config.eval.gallery_draws if config.eval.protocol == "gallery" else 0
    return {"ks": config.eval.ks, "gallery_draws": draws, "kmeans": config.eval.kmeans}
