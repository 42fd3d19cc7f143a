"""The embedder with masks (P21 section 3)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.errors import ModifyScopeVariableError

from dcjax.core.errors import InputError
from dcjax.core.ranges import require_known
from dcjax.division import masks
from dcjax.models import backbones
from dcjax.models.pixel_statistics import Statistics
from dcjax.models.resnet import ResNet

PRECISIONS = ("float32", "bfloat16")
EMBEDDING_INITS = ("torch", "orthogonal")


def torch_linear(fan_in: int) -> nn.initializers.Initializer:
    """Draws weights and biases as PyTorch's Linear does: uniform in +-1/sqrt(fan_in)."""
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _embedding_initializers(
    kind: str, fan_in: int
) -> tuple[nn.initializers.Initializer, nn.initializers.Initializer]:
    """Returns how weights and biases of the embedding are drawn, see `create`."""
    if kind == "orthogonal":
        return nn.initializers.orthogonal(), nn.initializers.zeros
    return torch_linear(fan_in), torch_linear(fan_in)


class MaskedEmbedder(nn.Module):
    """Backbone, pooling, dropout, linear embedding and one mask per cluster (P21 eq. 4, 8).

    Attributes:
      backbone: network from images [batch, h, w, 3], in the mean and deviation of `statistics`, and
        the keyword train to a feature map [batch, h', w', F]; or to a class token [batch, F] and a
        feature map. None: features of F numbers come in the place of images.
      embedding_dim: D, width of the embedding.
      max_clusters: K_max, rows of the collection `masks`.
      statistics: mean and deviation of the pixels that the backbone expects.
      pooling: one of `backbones.POOLINGS`.
      dropout: share of the pooled features that is dropped in training.
      test_masks: how masks are combined, see `masks.combine`.
      embedding_init: how the linear embedding begins, one of `EMBEDDING_INITS`, see `create`.
      cluster_parallel: batches of a step that lie side by side on the devices, see
        `devices.create_mesh`.
      chunk_size: images that the backbone takes at a time in training, a divisor of their number
        and a multiple of the number of devices; 0: all.
      num_features: F, where there is no backbone.
      dtype: of pixels, parameters and all operations after the backbone.
    """

    backbone: nn.Module | None
    embedding_dim: int
    max_clusters: int
    statistics: Statistics
    pooling: str
    dropout: float
    test_masks: str
    embedding_init: str = "torch"
    cluster_parallel: int = 1
    chunk_size: int = 0
    num_features: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        clusters: jax.Array | None = None,
        full_embedding: jax.Array | bool = False,
        *,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Embeds images, in the order of operations of P21: mask first, then normalise.

        Args:
          images: uint8 [batch, h, w, 3] or [C, B, h, w, 3] in RGB; or their pooled features, of a
            floating type, [batch, F] or [C, B, F], with which the backbone computes nothing.
          clusters: int32 [...] without the last of the leading axes: the cluster of each batch,
            whose mask is applied. None applies the combined mask.
          full_embedding: whether to apply the combined mask in any case.
          train: whether dropout is on and BatchNorm, unless frozen, updates its statistics.

        Returns:
          L2-normalised "embedding" [..., D] and "backbone" (pooled features) [..., F], and, with
          clusters, "unmasked" [..., D], the embedding before the mask, and "mask" [..., D] of each
          batch, not negative.
        """
        mask = self.variable(
            "masks", "masks", masks.initial, self.max_clusters, self.embedding_dim
        ).value.astype(self.dtype)
        if jnp.issubdtype(images.dtype, jnp.floating):
            pooled = images.astype(self.dtype)
        else:
            pooled = self.pool(images, train=train)
        weights, biases = _embedding_initializers(self.embedding_init, pooled.shape[-1])
        embedding = nn.Dense(
            self.embedding_dim,
            kernel_init=weights,
            bias_init=biases,
            dtype=self.dtype,
            param_dtype=self.dtype,
            name="embedding",
        )(nn.Dropout(self.dropout, deterministic=not train)(pooled))
        outputs = {"backbone": masks.l2_normalize(pooled)}
        if clusters is None:
            chosen = masks.combine(mask, self.test_masks)
        else:
            trained = masks.training_masks(mask, clusters, full_embedding, self.test_masks)
            chosen = trained[..., None, :]
            outputs |= {"unmasked": masks.l2_normalize(embedding), "mask": trained}
        return outputs | {"embedding": masks.apply(embedding, chosen)}

    def pool(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns the backbone's pooled features [..., F] of images, see `__call__`."""
        flat = _flatten_batches(images, self.cluster_parallel)
        if train and self.chunk_size:
            pooled = self._pool_in_chunks(flat)
        else:
            pooled = self._pool_flat(flat, train=train)
        return _unflatten_batches(pooled, images.shape[:-3], self.cluster_parallel)

    def _pool_flat(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the pooled features [n, F] of uint8 images [n, h, w, 3]."""
        if self.backbone is None:
            raise TypeError("A network without a backbone takes features, got images.")
        pixels = images.astype(self.dtype) / 255
        mean, std = (jnp.asarray(values, self.dtype) for values in self.statistics)
        features = self.backbone((pixels - mean) / std, train=train)
        return backbones.pool(features, self.pooling, self.dtype)

    def _pool_in_chunks(self, images: jax.Array) -> jax.Array:
        """Returns the pooled features [n, F] of uint8 images [n, h, w, 3] in training.

        One chunk after the other goes through the backbone, and once more for the gradient, so that
        the activations of one chunk alone are kept (GradCache, Gao et al. 2021). A loop of
        rematerialised chunks is the same computation: the gradient of the loss by all features is
        complete before that of the first chunk begins. All that follows, dropout included, has the
        features of the whole batch, which are small.
        """
        if len(images) % self.chunk_size:
            raise InputError(
                f"Require a model.chunk_size that divides the {len(images)} images of a step, got "
                f"{self.chunk_size}."
            )

        def pool(model: MaskedEmbedder, carry: None, chunk: jax.Array) -> tuple[None, jax.Array]:
            return carry, model._pool_flat(chunk, train=True)

        # Statistics that training would change cannot be those of the whole batch.
        with_fixed_statistics = nn.map_variables(pool, "batch_stats")
        loop = nn.scan(
            nn.remat(with_fixed_statistics, prevent_cse=False),
            variable_broadcast=("params", "batch_stats"),
            split_rngs={"dropout": True},  # of a custom backbone; others have none
        )
        # Of each device's images, which are adjacent, every chunk has the same number, so that all
        # stay where they are.
        chunks = images.reshape(self.chunk_size, -1, *images.shape[1:]).swapaxes(0, 1)
        try:
            _, pooled = loop(self, None, chunks)
        except ModifyScopeVariableError as error:
            raise InputError(
                "Chunks of a batch require a backbone whose training leaves batch_stats as they "
                "are: freeze its BatchNorm, or set model.chunk_size to 0."
            ) from error
        return pooled.swapaxes(0, 1).reshape(len(images), -1)


def blank_image(model: MaskedEmbedder, size: int) -> jax.Array:
    """Returns what a network takes for one image, zeros: uint8 [1, size, size, 3], or [1, F]."""
    if model.backbone is None:
        return jnp.zeros((1, model.num_features), jnp.float32)
    return jnp.zeros((1, size, size, 3), jnp.uint8)


def join_variables(params: Any, masks: Any, batch_stats: Any) -> dict[str, Any]:
    """Returns the collections of a `MaskedEmbedder`, with masks [K_max, D]."""
    return {"params": params, "masks": {"masks": masks}, "batch_stats": batch_stats}


def split_variables(variables: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Returns the parameters, masks and running statistics of the collections."""
    return variables["params"], variables["masks"]["masks"], variables.get("batch_stats", {})


def _flatten_batches(images: jax.Array, parallel: int) -> jax.Array:
    """Returns images [batch, ...] as they are, and [C, B, ...] as [C * B, ...].

    Of C batches, `parallel` lie side by side on the devices. In the order chosen here, the images
    of a device stay adjacent; in any other, XLA would gather all images on every device.
    """
    if images.ndim == 4:
        return images
    split = images.reshape(parallel, -1, *images.shape[1:])
    return split.swapaxes(1, 2).reshape(-1, *images.shape[2:])


def _unflatten_batches(rows: jax.Array, shape: tuple[int, ...], parallel: int) -> jax.Array:
    """Restores the shape before `_flatten_batches` of values of each image, [*shape, F]."""
    if len(shape) == 1:
        return rows
    split = rows.reshape(parallel, shape[1], -1, rows.shape[-1])
    return split.swapaxes(1, 2).reshape(*shape, rows.shape[-1])


def create(
    name: str,
    *,
    custom: Mapping[str, Any],
    num_stages: int = 4,
    width: int = 64,
    batch_norm: str = "frozen",
    convolution: str = "auto",
    vit: Mapping[str, Any] = MappingProxyType({}),
    pixels: str = "auto",
    precision: str = "float32",
    rematerialize: bool = False,
    pooling: str = "average",
    dropout: float = 0.01,
    embedding_init: str = "torch",
    chunk_size: int = 0,
    dtype: Any = jnp.float32,
    **options: Any,
) -> MaskedEmbedder:
    """Builds the embedder around the named backbone.

    Args:
      name: one of `backbones.NAMES`; "none", for features in the place of images; or
        "package.module:function", a function of your own that takes the options `custom` and
        `dtype`, the type of its activations, and returns a backbone as `MaskedEmbedder` has it.
      custom: options of a backbone of your own.
      num_stages: of a ResNet, stages that are kept; the rest is cut off.
      width: of a ResNet, channels of the first stage; 64 is the published network.
      batch_norm: of a ResNet: "frozen" (running statistics are used in training too and never
        change), as in both papers' code, or "train".
      convolution: of a ResNet, one of `cpu_convolution.METHODS`; the weights and the numbers are
        the same.
      vit: options of a vision transformer, see `vit.create`.
      pixels: mean and deviation that the backbone's weights were trained with: "imagenet", "half"
        (0.5 and 0.5), or "auto": see `backbones.choose_statistics`.
      precision: "bfloat16" makes the backbone's activations in it; parameters, pooling and all that
        follows keep their type.
      rematerialize: whether the gradient computes each block of the backbone again, in place of
        keeping its activations: less memory, more time.
      pooling: "average" or "max" over the feature map; or, of a vision transformer, the "class"
        token or "class_and_average", one after the other.
      dropout: share of the pooled features that is dropped in training; 0.01 in P21's recipe for
        Stanford Online Products.
      embedding_init: how the linear embedding begins: "torch" draws weights and biases as PyTorch's
        Linear does, as in both papers' code; "orthogonal" draws orthonormal weights, without a
        bias. With D >= F, every two embeddings then have the cosine of their pooled features, so
        that training starts at the scores of these; with D < F, nearly so.
      chunk_size: images that the backbone takes at a time in training, to save memory; 0: all.
      dtype: of everything else.
      **options: the other attributes of `MaskedEmbedder`.

    Raises:
      InputError: if a name is unknown, a number out of range, or an option is of another backbone.
    """
    require_known("model.precision", precision, sorted(PRECISIONS))
    require_known("model.embedding_init", embedding_init, sorted(EMBEDDING_INITS))
    backbone = backbones.create(
        name,
        custom=custom,
        num_stages=num_stages,
        width=width,
        batch_norm=batch_norm,
        convolution=convolution,
        vit_options=vit,
        rematerialize=rematerialize,
        pooling=pooling,
        dtype=jnp.bfloat16 if precision == "bfloat16" else dtype,
        param_dtype=dtype,
    )
    if chunk_size and isinstance(backbone, ResNet) and not backbone.frozen_statistics:
        raise InputError(
            "BatchNorm's statistics are those of a whole batch: require model.batch_norm=frozen, "
            "for which there must be published weights (model.pretrained), or "
            f"model.chunk_size=0, got model.batch_norm={batch_norm} and "
            f"model.chunk_size={chunk_size}."
        )
    return MaskedEmbedder(
        backbone=backbone,
        statistics=backbones.choose_statistics(pixels, name, backbone),
        pooling=pooling,
        dropout=dropout,
        embedding_init=embedding_init,
        chunk_size=chunk_size,
        dtype=dtype,
        **options,
    )
