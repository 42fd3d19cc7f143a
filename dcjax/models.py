"""ResNet (He et al. 2016, torchvision's v1.5) and the embedder with masks (P21 section 3)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dcjax import masks

IMAGE_MEAN = (0.485, 0.456, 0.406)  # of ImageNet in RGB, as every published weight expects
IMAGE_STD = (0.229, 0.224, 0.225)

POOLINGS: dict[str, Callable[..., jax.Array]] = {"average": jnp.mean, "max": jnp.max}
BATCH_NORMS = ("frozen", "train")

ModuleDef = Callable[..., nn.Module]


def torch_linear(fan_in: int) -> nn.initializers.Initializer:
    """Draws weights and biases as PyTorch's Linear does: uniform in +-1/sqrt(fan_in)."""
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    width: int
    stride: int
    conv: ModuleDef
    norm: ModuleDef
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [n, h, w, c] to [n, h / stride, w / stride, width]."""
        y = self.conv(self.width, 3, self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(self.width, 3, 1, name="conv2")(y)
        y = self.norm(name="bn2")(y)
        return nn.relu(y + _shortcut(self, x, y.shape[-1]))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride: "v1.5") and 1x1 convolutions and a shortcut."""

    width: int
    stride: int
    conv: ModuleDef
    norm: ModuleDef
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [n, h, w, c] to [n, h / stride, w / stride, 4 width]."""
        y = self.conv(self.width, 1, 1, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(self.width, 3, self.stride, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y))
        y = self.conv(self.width * self.expansion, 1, 1, name="conv3")(y)
        y = self.norm(name="bn3")(y)
        return nn.relu(y + _shortcut(self, x, y.shape[-1]))


def _shortcut(block: BasicBlock | Bottleneck, x: jax.Array, channels: int) -> jax.Array:
    if block.stride == 1 and x.shape[-1] == channels:
        return x
    x = block.conv(channels, 1, block.stride, name="downsample_0")(x)
    return block.norm(name="downsample_1")(x)


class ResNet(nn.Module):
    """A ResNet without its classifier, with torchvision's names and padding.

    The "small" stem is one 3x3 convolution without pooling, and every stage halves the
    size: for images of 8 to 64 pixels.
    """

    block: type[BasicBlock] | type[Bottleneck]
    stage_sizes: tuple[int, ...]
    stem: str
    width: int
    frozen_statistics: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps normalised images [n, h, w, 3] to the last feature map."""
        conv = partial(_conv, dtype=self.dtype)
        norm = partial(
            nn.BatchNorm,
            use_running_average=self.frozen_statistics or not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            param_dtype=self.dtype,
        )
        small = self.stem == "small"
        x = conv(self.width, 3 if small else 7, 1 if small else 2, name="conv1")(x)
        x = nn.relu(norm(name="bn1")(x))
        if not small:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, num_blocks in enumerate(self.stage_sizes):
            for index in range(num_blocks):
                stride = 2 if index == 0 and (small or stage > 0) else 1
                name = f"layer{stage + 1}_{index}"
                x = self.block(self.width * 2**stage, stride, conv, norm, name=name)(x)
        return x


# Name: block, blocks per stage, stem.
BACKBONES: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...], str]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2), "imagenet"),
    "resnet34": (BasicBlock, (3, 4, 6, 3), "imagenet"),
    "resnet50": (Bottleneck, (3, 4, 6, 3), "imagenet"),
    "resnet101": (Bottleneck, (3, 4, 23, 3), "imagenet"),
    "resnet_small": (BasicBlock, (1, 1, 1), "small"),
}


def _conv(features: int, size: int, stride: int, *, dtype: Any, name: str) -> nn.Conv:
    return nn.Conv(
        features,
        (size, size),
        (stride, stride),
        padding=[(size // 2, size // 2)] * 2,  # PyTorch's: the same on both sides
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        dtype=dtype,
        param_dtype=dtype,
        name=name,
    )


class MaskedEmbedder(nn.Module):
    """Backbone, pooling, dropout, linear embedding and one mask per cluster (P21 eq. 4, 8).

    Attributes:
      backbone: network from images to a feature map.
      embedding_dim: D, width of the embedding.
      max_clusters: K_max, rows of the collection `masks`.
      pooling: "average" or "max" over the feature map.
      dropout: share of the pooled features that is dropped in training.
      test_masks: how masks are joined into one, see `masks.combine`.
    """

    backbone: ResNet
    embedding_dim: int
    max_clusters: int
    pooling: str
    dropout: float
    test_masks: str
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
          images: uint8 [..., h, w, 3] in RGB.
          clusters: int32 [...] without the last of the leading axes: the cluster of each batch,
            whose mask is applied. None applies the combined mask.
          full_embedding: true applies the combined mask in any case.
          train: whether dropout is on and BatchNorm, unless frozen, learns its statistics.

        Returns:
          L2-normalised "embedding" [..., D] and "backbone" (pooled features) [..., F].
        """
        mask = self.variable(
            "masks", "masks", masks.initial, self.max_clusters, self.embedding_dim
        ).value.astype(self.dtype)
        pixels = images.reshape(-1, *images.shape[-3:]).astype(self.dtype) / 255
        pixels = (pixels - jnp.asarray(IMAGE_MEAN, self.dtype)) / jnp.asarray(IMAGE_STD, self.dtype)
        pooled = POOLINGS[self.pooling](self.backbone(pixels, train=train), axis=(1, 2))
        init = torch_linear(pooled.shape[-1])
        embedding = nn.Dense(
            self.embedding_dim,
            kernel_init=init,
            bias_init=init,
            dtype=self.dtype,
            param_dtype=self.dtype,
            name="embedding",
        )(nn.Dropout(self.dropout, deterministic=not train)(pooled))
        pooled, embedding = (
            x.reshape(*images.shape[:-3], x.shape[-1]) for x in (pooled, embedding)
        )
        chosen = masks.combine(mask, self.test_masks)
        if clusters is not None:
            chosen = jnp.where(full_embedding, chosen, mask[clusters][..., None, :])
        return {
            "embedding": masks.apply(embedding, chosen),
            "backbone": masks.l2_normalize(pooled),
        }


def create(
    name: str,
    *,
    num_stages: int,
    width: int,
    batch_norm: str,
    dtype: Any = jnp.float32,
    **options: Any,
) -> MaskedEmbedder:
    """Builds the embedder around the named backbone.

    Args:
      name: one of `BACKBONES`.
      num_stages: stages that are kept; the rest is cut off.
      width: channels of the first stage; 64 is the published network.
      batch_norm: "frozen" (running statistics are used in training too and never change) or
        "train".
      dtype: of parameters and activations.
      **options: the other attributes of `MaskedEmbedder`.

    Raises:
      ValueError: if a name is unknown or a number out of range.
    """
    for setting, value, known in (
        ("backbone", name, BACKBONES),
        ("batch_norm", batch_norm, BATCH_NORMS),
        ("pooling", options["pooling"], POOLINGS),
    ):
        if value not in known:
            raise ValueError(f"Unknown {setting} {value!r}; known are {', '.join(sorted(known))}.")
    block, stage_sizes, stem = BACKBONES[name]
    if not 1 <= num_stages <= len(stage_sizes):
        raise ValueError(
            f"model.num_stages must be 1 to {len(stage_sizes)} for {name}, got {num_stages}."
        )
    backbone = ResNet(
        block=block,
        stage_sizes=stage_sizes[:num_stages],
        stem=stem,
        width=width,
        frozen_statistics=batch_norm == "frozen",
        dtype=dtype,
    )
    return MaskedEmbedder(backbone=backbone, dtype=dtype, **options)
