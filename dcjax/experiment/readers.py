"""What the images of an experiment are read from: files, a cache, or features made of them once."""

import functools
import hashlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dcjax.data import datasets
from dcjax.data.readers import EvalReader, KeptCrops, Reader
from dcjax.distributed import devices
from dcjax.experiment import parts
from dcjax.experiment.network import Network

_MOST_KEPT = 2**28  # bytes of the centre crops of the training images that stay in memory

# Settings of the model on which the features of its backbone do not depend.
_WITHOUT_EFFECT_ON_FEATURES = {
    *("chunk_size", "dropout", "embedding_dim", "embedding_init", "masks", "test_masks"),
    *("orthogonality_weight", "pretrained", "rematerialize", "train", "last_blocks"),
}


class Readers:
    """The readers of the training, test and validation images, opened when first used."""

    def __init__(self, network: Network, splits: datasets.Splits) -> None:
        """Opens nothing yet.

        Args:
          network: whose crops, or features, they read.
          splits: the image sets.
        """
        self._network = network
        self._splits = splits

    @property
    def train(self) -> Reader:
        """The reader of the training images.

        Of a training batch, each process reads the part of its own devices.
        """
        return self._all[0]

    @functools.cached_property
    def train_crops(self) -> EvalReader:
        """The reader of the centre crops of the training images, which every division embeds.

        Where there is no cache, the crops stay in memory if they are small.
        """
        config, images = self._network.config, self._splits.train
        is_cached = config.dataset.cache != "none" or parts.keeps_features(config.model)
        num_bytes = 3 * config.dataset.crop**2 * len(images)
        if is_cached or images.num_features or num_bytes > _MOST_KEPT:
            return self.train
        return KeptCrops(self.train)

    @property
    def test(self) -> list[Reader]:
        """The readers of the query and, if there is one, of the gallery."""
        return self._all[1 : 1 + len(self._splits.test_sets)]

    @property
    def validation(self) -> Reader | None:
        """The reader of the validation images; None without them."""
        return None if self._splits.validation is None else self._all[-1]

    def make_features(self, variables: dict[str, Any]) -> None:
        """Computes the features of all images, which are read in place of images from here on.

        For a backbone that stays as it is. Of the training images, they are the features of
        `dataset.feature_views` augmented crops too. Each process computes a share of them.

        Args:
          variables: of the model.
        """
        from dcjax.data import feature_cache  # which imports TensorFlow

        network = self._network
        dataset = network.config.dataset
        self._all = [
            *feature_cache.create(
                [network.stream(images) for images in self._sets],
                functools.partial(network.pool, variables=variables),
                num_features=variables["params"]["embedding"]["kernel"].shape[0],
                num_views=dataset.feature_views,
                backbone=_feature_identity(network.config.model, variables),
                folder=dataset.cache_dir if dataset.cache == "disk" else None,
                share=self._share,
            )
        ]

    @functools.cached_property
    def _all(self) -> list[Reader]:
        """Readers of `_sets`, through a cache where `dataset.cache` says so."""
        network, share = self._network, self._share
        dataset = network.config.dataset
        if network.num_features or dataset.cache == "none":
            return [network.open(images, share=share) for images in self._sets]
        from dcjax.data import device_cache, host_cache  # which import TensorFlow

        files = [network.stream(images, share=share) for images in self._sets]
        if dataset.cache == "device":
            return [*device_cache.create(files, network.mesh)]
        folder = dataset.cache_dir if dataset.cache == "disk" else None
        return [
            network.stream(images, source, share=share)
            for images, source in zip(self._sets, host_cache.create(files, folder), strict=True)
        ]

    @property
    def _sets(self) -> list[datasets.ImageSet]:
        """The training images, the test images and, if there are any, the validation images."""
        splits = self._splits
        validation = [] if splits.validation is None else [splits.validation]
        return [splits.train, *splits.test_sets, *validation]

    @property
    def _share(self) -> devices.Share:
        """The part of a step's images that this process reads."""
        sampled = self._network.config.sampling
        return devices.share_of_batch(
            self._network.mesh, sampled.clusters_per_step, sampled.batch_size
        )


def _feature_identity(settings: ConfigDict, variables: dict[str, Any]) -> dict[str, Any]:
    """Returns what the features of a backbone depend on: its weights, and settings of the model."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(variables)):
        name = jax.tree_util.keystr(path)
        if "['backbone']" in name:
            digest.update(f"{name} {leaf.dtype} {leaf.shape}".encode())
            digest.update(np.ascontiguousarray(leaf).data)
    kept = {
        name: x for name, x in settings.to_dict().items() if name not in _WITHOUT_EFFECT_ON_FEATURES
    }
    return {"weights": digest.hexdigest(), "settings": kept}
