"""ResNet (He et al. 2016, torchvision's v1.5)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dcjax.models.cpu_convolution import convolve, max_pool

Layer = Callable[..., jax.Array]  # `_conv_norm` with its options

_EPSILON = 1e-5  # of BatchNorm


class Conv(nn.Module):
    """A convolution without bias, its kernel multiplied by a factor per feature."""

    features: int
    size: int
    stride: int
    convolution: str
    dtype: Any
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, scale: jax.Array | float = 1.0) -> jax.Array:
        """Maps [n, h, w, c] to [n, h / stride, w / stride, features]."""
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape, self.param_dtype)
        kernel = (kernel * scale).astype(self.dtype)
        return convolve(x.astype(self.dtype), kernel, self.stride, self.convolution)


class FrozenNorm(nn.Module):
    """The variables of BatchNorm, and its scale and shift with frozen statistics."""

    features: int
    param_dtype: Any

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        """Returns the scale and the shift of each feature, [features] each."""
        shape, init = (self.features,), nn.initializers
        scale = self.param("scale", init.ones, shape, self.param_dtype)
        bias = self.param("bias", init.zeros, shape, self.param_dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape).value
        var = self.variable("batch_stats", "var", jnp.ones, shape).value
        var = var.astype(jnp.result_type(var, scale))
        factor = scale * jax.lax.rsqrt(var + _EPSILON)
        return factor.astype(self.param_dtype), (bias - mean * factor).astype(self.param_dtype)


def _conv_norm(
    x: jax.Array,
    features: int,
    size: int,
    stride: int,
    conv_name: str,
    norm_name: str,
    *,
    convolution: str,
    frozen: bool,
    train: bool,
    dtype: Any,
    param_dtype: Any,
) -> jax.Array:
    """Convolves and normalises, as two submodules of the calling module."""
    conv = Conv(features, size, stride, convolution, dtype, param_dtype, name=conv_name)
    if frozen and train:
        # The scale is folded into the kernel, so that its gradient needs no activation before the
        # norm.
        factor, shift = FrozenNorm(features, param_dtype, name=norm_name)()
        return conv(x, factor) + shift.astype(dtype)
    norm = nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=_EPSILON,
        dtype=dtype,
        param_dtype=param_dtype,
        name=norm_name,
    )
    return norm(conv(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    width: int
    stride: int
    conv_norm: Layer
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [n, h, w, c] to [n, h / stride, w / stride, width]."""
        y = nn.relu(self.conv_norm(x, self.width, 3, self.stride, "conv1", "bn1"))
        y = self.conv_norm(y, self.width, 3, 1, "conv2", "bn2")
        return nn.relu(y + _shortcut(self, x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride: "v1.5") and 1x1 convolutions and a shortcut."""

    width: int
    stride: int
    conv_norm: Layer
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [n, h, w, c] to [n, h / stride, w / stride, 4 width]."""
        y = nn.relu(self.conv_norm(x, self.width, 1, 1, "conv1", "bn1"))
        y = nn.relu(self.conv_norm(y, self.width, 3, self.stride, "conv2", "bn2"))
        y = self.conv_norm(y, self.width * self.expansion, 1, 1, "conv3", "bn3")
        return nn.relu(y + _shortcut(self, x))


def _shortcut(block: BasicBlock | Bottleneck, x: jax.Array) -> jax.Array:
    channels = block.width * block.expansion
    if block.stride == 1 and x.shape[-1] == channels:
        return x
    return block.conv_norm(x, channels, 1, block.stride, "downsample_0", "downsample_1")


class ResNet(nn.Module):
    """A ResNet without its classifier, with torchvision's names and padding.

    The "small" stem is one 3x3 convolution without pooling, and every stage halves the
    size: for images of 8 to 64 pixels. Parameters are of `param_dtype`, activations of `dtype`;
    BatchNorm's statistics are made in float32 at least.
    """

    block: type[BasicBlock] | type[Bottleneck]
    stage_sizes: tuple[int, ...]
    stem: str
    width: int
    frozen_statistics: bool
    convolution: str
    rematerialize: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def block_names(self) -> tuple[str, ...]:
        """The names of its residual blocks, in order."""
        return tuple(
            _block_name(stage, index)
            for stage, num_blocks in enumerate(self.stage_sizes)
            for index in range(num_blocks)
        )

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps normalised images [n, h, w, 3] to the last feature map."""
        conv_norm = partial(
            _conv_norm,
            convolution=self.convolution,
            frozen=self.frozen_statistics,
            train=train,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        small = self.stem == "small"
        x = nn.relu(conv_norm(x, self.width, *((3, 1) if small else (7, 2)), "conv1", "bn1"))
        if not small:
            x = max_pool(x, self.convolution)
        # The gradient of a rematerialised block computes its activations again.
        make_block = nn.remat(self.block) if self.rematerialize else self.block
        for stage, num_blocks in enumerate(self.stage_sizes):
            for index in range(num_blocks):
                stride = 2 if index == 0 and (small or stage > 0) else 1
                name = _block_name(stage, index)
                x = make_block(self.width * 2**stage, stride, conv_norm, name=name)(x)
        return x


def _block_name(stage: int, index: int) -> str:
    return f"layer{stage + 1}_{index}"


# Name: block, blocks per stage, stem.
BACKBONES: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...], str]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2), "imagenet"),
    "resnet34": (BasicBlock, (3, 4, 6, 3), "imagenet"),
    "resnet50": (Bottleneck, (3, 4, 6, 3), "imagenet"),
    "resnet101": (Bottleneck, (3, 4, 23, 3), "imagenet"),
    "resnet_small": (BasicBlock, (1, 1, 1), "small"),
}
