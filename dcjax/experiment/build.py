"""Builds the parts of one experiment from its config."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from dcjax import losses
from dcjax.core import plugins, streams
from dcjax.core.errors import InputError, file_errors
from dcjax.core.streams import DeviceStream
from dcjax.data import (
    crops,
    datasets,
    device_cache,
    feature_cache,
    feature_reader,
    host_cache,
    pipeline,
)
from dcjax.distributed import devices
from dcjax.division.division import Division
from dcjax.experiment import cameras
from dcjax.experiment.schedule import Schedule
from dcjax.losses import mining
from dcjax.models import backbones, masked_embedder, pretrained
from dcjax.retrieval import evaluation
from dcjax.training import optimizers, rates, state, steps

# Settings of the model on which the features of its backbone do not depend.
_OF_NO_FEATURE = {
    *("dropout", "embedding_dim", "embedding_init", "masks", "test_masks", "orthogonality_weight"),
    *("pretrained", "rematerialize", "train", "last_blocks"),
}

Weights = tuple[dict[str, Any], dict[str, Any]]  # parameters and running statistics


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """The network of an experiment, with its embeddings and scores.

    Each part is created when it is first used.

    Attributes:
      config: the experiment, see configs/default.py.
      mesh: the devices.
      num_features: F of features that come in the place of images; 0: images.
    """

    config: ConfigDict
    mesh: Mesh
    num_features: int = dataclasses.field(default=0, kw_only=True)

    @functools.cached_property
    def model(self) -> masked_embedder.MaskedEmbedder:
        """The network."""
        return create_model(self.config, num_features=self.num_features)

    @functools.cached_property
    def augmentation(self) -> crops.Augmentation:
        """The training augmentation, and the size of test crops."""
        return create_augmentation(self.config.augment, self.config.dataset)

    @functools.cached_property
    def abstract_variables(self) -> dict[str, Any]:
        """The model's variables as shapes and types; nothing is drawn or compiled."""
        image = masked_embedder.blank_image(self.model, self.config.dataset.crop)
        return jax.eval_shape(self.model.init, self._initialization_key(), image)

    def open_test(self, splits: datasets.Splits) -> list[pipeline.Reader]:
        """Returns readers, from the files, of the query and, if there is one, of the gallery."""
        return [self.open(images) for images in splits.test_sets]

    def open(
        self, images: datasets.ImageSet, *, share: devices.Share = devices.WHOLE
    ) -> pipeline.Reader:
        """Returns a reader of images, from their files, or of features in their place."""
        if images.num_features:
            return feature_reader.FeatureReader(images, images.images, share=share)
        return self.stream(images, share=share)

    def stream(
        self,
        images: datasets.ImageSet,
        resized: pipeline.Source | None = None,
        *,
        share: devices.Share = devices.WHOLE,
    ) -> pipeline.Stream:
        """Returns a reader of an image set, from its files or from its resized images."""
        return pipeline.Stream(
            images,
            self.augmentation,
            seed=self.config.seed,
            num_threads=self.config.dataset.num_threads or None,
            max_pixels=self.config.dataset.max_pixels,
            resized=resized,
            share=share,
        )

    def embed(
        self,
        reader: pipeline.EvalReader,
        variables: dict[str, Any],
        *,
        output: str = "embedding",
        batch_size: int | None = None,
    ) -> jax.Array:
        """Returns the embeddings of all images of a reader, see `evaluation.embed`.

        Args:
          reader: of the images.
          variables: of the model.
          output: "embedding", or "backbone": its pooled features.
          batch_size: images at a time; None: that of the config.
        """
        return evaluation.embed(
            reader,
            self._embed_step,
            variables,
            output=output,
            sharding=devices.rows_sharding(self.mesh),
            batch_size=batch_size or self.config.eval.batch_size,
        )

    def score(
        self,
        readers: Sequence[pipeline.Reader],
        variables: dict[str, Any],
        *,
        is_last: bool,
        receive: evaluation.ScoresReceiver | None = None,
    ) -> dict[str, float]:
        """Returns the scores of the embedding.

        Args:
          readers: of the queries and, if there is one, the gallery.
          variables: of the model.
          is_last: whether the last epoch is trained.
          receive: see `evaluation.evaluate`.
        """
        wanted = {"never": False, "last": is_last, "always": True}
        embeddings = [self.embed(reader, variables) for reader in readers]
        with_nmi = wanted[self.config.eval.nmi]
        dims = scored_dims(self.config)
        return self._score(embeddings, readers, with_nmi=with_nmi, dims=dims, receive=receive)

    def validate(
        self, reader: pipeline.Reader, variables: dict[str, Any], *, output: str = "embedding"
    ) -> dict[str, float]:
        """Returns the scores of validation classes: each image searches all others; no NMI."""
        return evaluation.evaluate(
            [self.embed(reader, variables, output=output)],
            [reader.images.labels],
            ks=self.config.eval.ks,
            nmi_runs=0,
            gallery_draws=0,
            dims=scored_dims(self.config) if output == "embedding" else (),
            cameras=cameras.compared([reader.images.cameras], self.config.eval),
        )

    def score_pixels(self, readers: Sequence[pipeline.Reader]) -> dict[str, float]:
        """Returns the scores of the images' own pixels."""
        embeddings = [
            evaluation.pixels(
                reader,
                sharding=devices.rows_sharding(self.mesh),
                batch_size=self.config.eval.batch_size,
            )
            for reader in readers
        ]
        return self._score(embeddings, readers, with_nmi=self.config.eval.nmi != "never")

    @functools.cached_property
    def _embed_step(self) -> Callable[..., dict[str, jax.Array]]:
        rows = devices.rows_sharding(self.mesh)
        return jax.jit(
            functools.partial(steps.embed_step, model=self.model),
            in_shardings=(devices.replicated(self.mesh), rows),
            out_shardings=rows,
        )

    def _score(
        self,
        embeddings: list[jax.Array],
        readers: Sequence[pipeline.Reader],
        *,
        with_nmi: bool,
        dims: Sequence[int] = (),
        receive: evaluation.ScoresReceiver | None = None,
    ) -> dict[str, float]:
        sets = [reader.images for reader in readers]
        return score(
            embeddings,
            [images.labels for images in sets],
            self.config.eval,
            with_nmi=with_nmi,
            dims=dims,
            cameras=cameras.compared([images.cameras for images in sets], self.config.eval),
            receive=receive,
        )

    def _initialization_key(self) -> jax.Array:
        return streams.device_key(self.config.seed, DeviceStream.INITIALIZATION)


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment(Network):
    """The parts of one experiment, for training.

    Attributes:
      splits: the image sets.
    """

    splits: datasets.Splits

    def __post_init__(self) -> None:
        """Takes the number of features from the data."""
        object.__setattr__(self, "num_features", self.splits.query.num_features)

    @functools.cached_property
    def loss(self) -> losses.Loss:
        """The metric-learning loss."""
        return create_loss(self.config, self.splits.train.class_sizes)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        """The optimizer of all parameter groups."""
        return create_optimizer(self.config.optimizer, self.config.model.backbone)

    @functools.cached_property
    def schedule(self) -> Schedule:
        """What each epoch does."""
        return Schedule(self.config)

    @functools.cached_property
    def abstract_state(self) -> state.TrainState:
        """The training state as shapes, types and shardings; nothing is drawn or compiled."""
        shapes = jax.eval_shape(lambda: self._draw_state(None))
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            shapes,
            state.shardings(shapes, self.mesh),
        )

    @functools.cached_property
    def train_step(self) -> Callable[..., tuple[state.TrainState, steps.Metrics]]:
        """The compiled step (state, batch, controls, key) -> (state, metrics).

        The buffers of the state are donated. Lambda of P21 eq. 7 is 0 for masks that are not
        learned.
        """
        shardings = self._state_shardings()
        learned = self.config.model.masks == "learned"
        step = functools.partial(
            steps.train_step,
            model=self.model,
            loss=self.loss,
            optimizer=self.optimizer,
            orthogonality_weight=self.config.model.orthogonality_weight if learned else 0.0,
            schedule=create_rates(self.config.optimizer, self.config.train.num_epochs),
            average_decay=self.config.train.ema_decay,
        )
        return jax.jit(
            step,
            in_shardings=(shardings, self.batch_shardings, self.replicated, self.replicated),
            out_shardings=(shardings, self.replicated),
            donate_argnums=0,
        )

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of replicated arrays."""
        return devices.replicated(self.mesh)

    @property
    def batch_shardings(self) -> dict[str, NamedSharding]:
        """The shardings of a training batch."""
        return devices.batch_shardings(self.mesh)

    @functools.cached_property
    def training_key(self) -> jax.Array:
        """The key of all training steps, on every device."""
        key = functools.partial(streams.device_key, self.config.seed, DeviceStream.TRAINING)
        return jax.jit(key, out_shardings=self.replicated)()

    @functools.cached_property
    def enter_division(self) -> Callable[[state.TrainState, Division], state.TrainState]:
        """The function (state, division) -> state in a new division; see `state.create_enter`."""
        return state.create_enter(
            self.optimizer,
            self._state_shardings(),
            max_clusters=self.config.division.max_clusters,
            kind=self.config.model.masks,
        )

    def make_features(self, variables: dict[str, Any]) -> None:
        """Computes the features of all images, which readers give in place of images from here on.

        For a backbone that stays as it is. Of the training images, they are the features of
        `dataset.feature_views` augmented crops too.

        Args:
          variables: of the model.
        """
        dataset, rows = self.config.dataset, devices.rows_sharding(self.mesh)
        step = jax.jit(
            functools.partial(steps.pool_step, model=self.model),
            in_shardings=(self.replicated, rows),
            out_shardings=rows,
        )

        def compute(reader: pipeline.EvalReader) -> np.ndarray:
            size = self.config.eval.batch_size
            pooled = evaluation.embed(
                reader, step, variables, output="backbone", sharding=rows, batch_size=size
            )
            return evaluation.fetch(pooled, len(reader.images))

        # From here on, these readers are in the place of those of images.
        vars(self)["_readers"] = feature_cache.create(
            [self.stream(images) for images in self._sets],
            compute,
            num_features=variables["params"]["embedding"]["kernel"].shape[0],
            num_views=dataset.feature_views,
            backbone=_feature_identity(self.config.model, variables),
            folder=dataset.cache_dir if dataset.cache == "disk" else None,
            share=self._share,
        )

    @property
    def train_reader(self) -> pipeline.Reader:
        """The reader of the training images.

        Of a training batch, each process reads the part of its own devices.
        """
        return self._readers[0]

    @property
    def test_readers(self) -> list[pipeline.Reader]:
        """The readers of the query and, if there is one, of the gallery."""
        return self._readers[1 : 1 + len(self.splits.test_sets)]

    @property
    def validation_reader(self) -> pipeline.Reader | None:
        """The reader of the validation images; None without them."""
        return None if self.splits.validation is None else self._readers[-1]

    def score_untrained(self, variables: dict[str, Any]) -> dict[str, dict[str, float]]:
        """Returns the scores of pooled backbone features and, if wanted, of pixels, by name."""
        readers, scores = self.test_readers, {}
        if self.config.eval.pixels:
            reads_features = any(isinstance(x, feature_reader.FeatureReader) for x in readers)
            pixels = self.open_test(self.splits) if reads_features else readers
            scores["raw pixels"] = self.score_pixels(pixels)
        features = [self.embed(reader, variables, output="backbone") for reader in readers]
        with_nmi = self.config.eval.nmi == "always"
        return {**scores, "backbone features": self._score(features, readers, with_nmi=with_nmi)}

    def load_pretrained(self, say: Callable[[str], None]) -> Weights | None:
        """Loads published weights of the backbone; None if training starts from random ones.

        Args:
          say: called with a line for each choice, see `pretrained.load`.
        """
        name = self.config.model.pretrained
        if not name:
            return None
        with file_errors(f"Cannot read model.pretrained={name!r}"):
            return pretrained.load(
                name,
                self.abstract_variables["params"]["backbone"],
                self.abstract_variables.get("batch_stats", {}).get("backbone", {}),
                download=self.config.dataset.download,
                statistics=self.model.statistics,
                say=say,
            )

    def create_state(self, weights: Weights | None) -> state.TrainState:
        """Draws the initial state, with these weights of the backbone if given."""
        return jax.jit(self._draw_state, out_shardings=self._state_shardings())(weights)

    @functools.cached_property
    def _readers(self) -> list[pipeline.Reader]:
        """Readers of all image sets, through a cache where `dataset.cache` says so."""
        dataset, share = self.config.dataset, self._share
        if self.num_features:
            return [self.open(images, share=share) for images in self._sets]
        files = [self.stream(images, share=share) for images in self._sets]
        if dataset.cache == "none":
            return list(files)
        if dataset.cache == "device":
            return list(device_cache.create(files, self.mesh))
        folder = dataset.cache_dir if dataset.cache == "disk" else None
        return [
            self.stream(images, host_cache.create_source(decoded), share=share)
            for images, decoded in zip(self._sets, host_cache.create(files, folder), strict=True)
        ]

    @property
    def _sets(self) -> list[datasets.ImageSet]:
        """The training images, the test images and, if there are any, the validation images."""
        validation = [] if self.splits.validation is None else [self.splits.validation]
        return [self.splits.train, *self.splits.test_sets, *validation]

    @property
    def _share(self) -> devices.Share:
        """The part of a step's images that this process reads."""
        sampled = self.config.sampling
        return devices.share_of_batch(self.mesh, sampled.clusters_per_step, sampled.batch_size)

    def _draw_state(self, weights: Weights | None) -> state.TrainState:
        fresh = state.create(
            self.model,
            self.loss,
            self.optimizer,
            key=self._initialization_key(),
            image_size=self.config.dataset.crop,
            memory_size=self.config.loss.memory_size,
            trained_modules=trained_modules(self.config.model, self.model),
        )
        if weights is not None:
            params, statistics = weights
            fresh = fresh.replace(
                params={**fresh.params, "backbone": params},
                batch_stats={"backbone": statistics} if statistics else {},
            )
        return fresh.replace(average=fresh.network) if self.config.train.ema_decay else fresh

    def _state_shardings(self) -> state.TrainState:
        return jax.tree.map(lambda x: x.sharding, self.abstract_state)


def score(
    embeddings: Sequence[jax.Array],
    labels: Sequence[np.ndarray],
    settings: ConfigDict,
    *,
    with_nmi: bool,
    dims: Sequence[int] = (),
    cameras: Sequence[np.ndarray] | None,
    receive: evaluation.ScoresReceiver | None = None,
) -> dict[str, float]:
    """Returns the scores of embeddings by the settings `eval`, see `evaluation.evaluate`.

    Args:
      embeddings: of the queries and, if there is one, the gallery.
      labels: of each.
      settings: the group `eval`.
      with_nmi: whether to cluster them.
      dims: numbers of first coordinates, see `evaluation.score_dims`.
      cameras: of each, see `cameras.compared`.
      receive: see `evaluation.evaluate`.
    """
    scores = evaluation.evaluate(
        embeddings,
        labels,
        ks=settings.ks,
        nmi_runs=settings.nmi_runs if with_nmi else 0,
        gallery_draws=settings.gallery_draws if settings.protocol == "gallery" else 0,
        kmeans=settings.kmeans,
        dims=dims,
        cameras=cameras,
        receive=receive,
    )
    return scores | score_on_host(embeddings, labels, settings, cameras=cameras)


def score_on_host(
    embeddings: Sequence[jax.Array],
    labels: Sequence[np.ndarray],
    settings: ConfigDict,
    *,
    cameras: Sequence[np.ndarray] | None,
) -> dict[str, float]:
    """Returns the scores after re-ranking and at FMRs, if `eval` wants them; as in `score`."""
    return evaluation.score_on_host(
        embeddings,
        labels,
        ks=settings.ks,
        cameras=cameras,
        reranks=settings.reranking.to_dict() if settings.rerank else None,
        rates=settings.fmr,
    )


def scored_dims(config: ConfigDict) -> tuple[int, ...]:
    """Returns the numbers of first coordinates below D that an evaluation scores too."""
    dims = config.eval.dims or config.loss.matryoshka
    return tuple(dim for dim in dims if dim < config.model.embedding_dim)


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
        chunk_size=config.sampling.chunk_size,
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


def _feature_identity(settings: ConfigDict, variables: dict[str, Any]) -> dict[str, Any]:
    """Returns what the features of a backbone depend on: its weights, and settings of the model."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(variables)):
        name = jax.tree_util.keystr(path)
        if "['backbone']" in name:
            digest.update(f"{name} {leaf.dtype} {leaf.shape}".encode())
            digest.update(np.ascontiguousarray(leaf).data)
    kept = {name: x for name, x in settings.to_dict().items() if name not in _OF_NO_FEATURE}
    return {"weights": digest.hexdigest(), "settings": kept}


def plan_options(sampled: ConfigDict) -> dict[str, Any]:
    """Returns those of the settings `sampling` that are options of `sampling.plan_epoch`."""
    return {name: value for name, value in sampled.items() if name != "chunk_size"}


def create_loss(config: ConfigDict, class_sizes: np.ndarray) -> losses.Loss:
    """Builds the metric-learning loss for training classes of so many images [num_classes]."""
    name, options = config.loss.name, {}
    if plugins.is_custom(name) or name in losses.KNOWN:
        options = dict(config.loss.custom if plugins.is_custom(name) else config.loss[name])
    if "miner" in options:
        options["miner"] = _create_miner(config.mining, options["miner"])
    loss = losses.create(
        name,
        num_classes=len(class_sizes),
        embedding_dim=config.model.embedding_dim,
        class_sizes=class_sizes,
        matryoshka=config.loss.matryoshka,
        **options,
    )
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
