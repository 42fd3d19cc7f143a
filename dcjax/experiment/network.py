"""The network of an experiment, with its embeddings and scores."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from dcjax.core import streams
from dcjax.core.streams import DeviceStream
from dcjax.data import crops, datasets, feature_reader, pixel_reader
from dcjax.data.readers import EvalReader, Reader
from dcjax.distributed import devices
from dcjax.experiment import cameras, parts, scoring
from dcjax.models import masked_embedder
from dcjax.retrieval import evaluation
from dcjax.training import steps

if TYPE_CHECKING:  # these import TensorFlow, which reads images alone
    from dcjax.data import pipeline


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
    num_features: int = 0

    @functools.cached_property
    def model(self) -> masked_embedder.MaskedEmbedder:
        """The network."""
        return parts.create_model(self.config, num_features=self.num_features)

    @functools.cached_property
    def augmentation(self) -> crops.Augmentation:
        """The training augmentation, and the size of test crops."""
        return parts.create_augmentation(self.config.augment, self.config.dataset)

    @functools.cached_property
    def abstract_variables(self) -> dict[str, Any]:
        """The model's variables as shapes and types; nothing is drawn or compiled."""
        image = masked_embedder.blank_image(self.model, self.config.dataset.crop)
        return jax.eval_shape(self.model.init, self.initialization_key(), image)

    def initialization_key(self) -> jax.Array:
        """Returns the key from which all parameters are drawn."""
        return streams.device_key(self.config.seed, DeviceStream.INITIALIZATION)

    def open_test(self, splits: datasets.Splits) -> list[Reader]:
        """Returns readers, from the files, of the query and, if there is one, of the gallery."""
        return [self.open(images) for images in splits.test_sets]

    def open(self, images: datasets.ImageSet, *, share: devices.Share = devices.WHOLE) -> Reader:
        """Returns a reader of images, from their files or from memory, or of features."""
        if images.num_features:
            return feature_reader.FeatureReader(images, images.images, share=share)
        if pixel_reader.can_read(images, self.augmentation):
            seed = self.config.seed
            return pixel_reader.PixelReader(images, self.augmentation, seed=seed, share=share)
        return self.stream(images, share=share)

    def stream(
        self,
        images: datasets.ImageSet,
        resized: "pipeline.Source | None" = None,
        *,
        share: devices.Share = devices.WHOLE,
    ) -> "pipeline.Stream":
        """Returns a reader of an image set, from its files or from its resized images."""
        from dcjax.data import pipeline  # which imports TensorFlow

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
        reader: EvalReader,
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

    def pool(self, reader: EvalReader, variables: dict[str, Any]) -> np.ndarray:
        """Returns the pooled features of all images of a reader, not normalised, float32 [N, F].

        On the host; all processes call it together, and each computes a share.
        """
        pooled = evaluation.embed(
            reader,
            self._pool_step,
            variables,
            output="backbone",
            sharding=devices.rows_sharding(self.mesh),
            batch_size=self.config.eval.batch_size,
        )
        return evaluation.fetch(pooled, len(reader.images))

    def score(
        self,
        readers: Sequence[Reader],
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
        dims = scoring.scored_dims(self.config)
        return self._score(embeddings, readers, with_nmi=with_nmi, dims=dims, receive=receive)

    def score_backbone(
        self, readers: Sequence[Reader], variables: dict[str, Any]
    ) -> dict[str, float]:
        """Returns the scores of the pooled features of the backbone."""
        features = [self.embed(reader, variables, output="backbone") for reader in readers]
        return self._score(features, readers, with_nmi=self.config.eval.nmi == "always")

    def score_pixels(self, readers: Sequence[Reader]) -> dict[str, float]:
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

    def validate(
        self, reader: Reader, variables: dict[str, Any], *, output: str = "embedding"
    ) -> dict[str, float]:
        """Returns the scores of validation classes: each image searches all others; no NMI."""
        return evaluation.evaluate(
            [self.embed(reader, variables, output=output)],
            [reader.images.labels],
            ks=self.config.eval.ks,
            nmi_runs=0,
            gallery_draws=0,
            dims=scoring.scored_dims(self.config) if output == "embedding" else (),
            cameras=cameras.compared([reader.images.cameras], self.config.eval),
        )

    @functools.cached_property
    def _embed_step(self) -> Callable[..., dict[str, jax.Array]]:
        return self._on_rows(steps.embed_step)

    @functools.cached_property
    def _pool_step(self) -> Callable[..., dict[str, jax.Array]]:
        return self._on_rows(steps.pool_step)

    def _on_rows(
        self, step: Callable[..., dict[str, jax.Array]]
    ) -> Callable[..., dict[str, jax.Array]]:
        """Returns the compiled step (variables, images) -> outputs, sharded by rows."""
        rows = devices.rows_sharding(self.mesh)
        return jax.jit(
            functools.partial(step, model=self.model),
            in_shardings=(devices.replicated(self.mesh), rows),
            out_shardings=rows,
        )

    def _score(
        self,
        embeddings: list[jax.Array],
        readers: Sequence[Reader],
        *,
        with_nmi: bool,
        dims: Sequence[int] = (),
        receive: evaluation.ScoresReceiver | None = None,
    ) -> dict[str, float]:
        sets = [reader.images for reader in readers]
        return scoring.score(
            embeddings,
            [images.labels for images in sets],
            self.config.eval,
            with_nmi=with_nmi,
            dims=dims,
            cameras=cameras.compared([images.cameras for images in sets], self.config.eval),
            receive=receive,
        )
