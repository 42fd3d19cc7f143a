"""Vision transformers (Dosovitskiy et al. 2021), as DINO, DINOv2 and timm train them."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dcjax.core.errors import InputError
from dcjax.core.ranges import require_known, require_whole

_EPSILON = 1e-6  # of LayerNorm, in all published networks
_MLP_RATIO = 4
_LAYER_SCALE = 1e-5  # initial value, as in DINOv2
_TRUNCATED_NORMAL = nn.initializers.truncated_normal(0.02)

MLPS = ("gelu", "swiglu")
ATTENTIONS = ("auto", "xla", "cudnn")

# Name: width, blocks, heads.
SIZES: dict[str, tuple[int, int, int]] = {
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
}


class _PatchEmbedding(nn.Module):
    """A linear map of each patch: a convolution whose stride is its size."""

    patch_size: int
    width: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [n, h, w, 3] to [n, h / patch_size, w / patch_size, width]."""
        size, (n, height, width, channels) = self.patch_size, x.shape
        shape = (size, size, channels, self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), self.param_dtype)
        # One matrix product, which every device does fast.
        patches = x.reshape(n, height // size, size, width // size, size, channels)
        patches = patches.swapaxes(2, 3).reshape(n, height // size, width // size, -1)
        kernel = kernel.reshape(-1, self.width).astype(self.dtype)
        return patches.astype(self.dtype) @ kernel + bias.astype(self.dtype)


class _Attention(nn.Module):
    """Self-attention of all tokens."""

    num_heads: int
    attention: str
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [n, tokens, width] to the same shape."""
        n, num_tokens, width = x.shape
        projected = _dense(self, 3 * width, "qkv")(x)
        heads = projected.reshape(n, num_tokens, 3, self.num_heads, width // self.num_heads)
        query, key, value = (heads[:, :, part] for part in range(3))
        method: Any = choose_attention(self.attention, self.dtype)
        mixed = _attend(query, key, value, method)
        return _dense(self, width, "proj")(mixed.reshape(x.shape))


class _Mlp(nn.Module):
    """Two layers with GELU between them, or with SwiGLU, whose first layer has two halves."""

    kind: str
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [n, tokens, width] to the same shape."""
        width = x.shape[-1]
        if self.kind == "gelu":
            y = nn.gelu(_dense(self, _MLP_RATIO * width, "fc1")(x), approximate=False)
        else:
            # As many parameters as with GELU, rounded up to a multiple of 8, as in DINOv2.
            hidden = (_MLP_RATIO * width * 2 // 3 + 7) // 8 * 8
            gate, values = jnp.split(_dense(self, 2 * hidden, "fc1")(x), 2, axis=-1)
            y = nn.silu(gate) * values
        return _dense(self, width, "fc2")(y)


class _LayerScale(nn.Module):
    """A learned factor per feature (Touvron et al. 2021)."""

    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Multiplies [..., width]."""
        init = nn.initializers.constant(_LAYER_SCALE)
        return x * self.param("gamma", init, x.shape[-1:], self.param_dtype).astype(x.dtype)


class Block(nn.Module):
    """Attention and MLP, each after a norm and with a shortcut."""

    num_heads: int
    layer_scale: bool
    mlp: str
    attention: str
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [n, tokens, width] to the same shape."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = _Attention(self.num_heads, self.attention, **types, name="attn")(
            _norm(self, "norm1")(x)
        )
        x = x + (_LayerScale(self.param_dtype, name="ls1")(y) if self.layer_scale else y)
        y = _Mlp(self.mlp, **types, name="mlp")(_norm(self, "norm2")(x))
        return x + (_LayerScale(self.param_dtype, name="ls2")(y) if self.layer_scale else y)


class ViT(nn.Module):
    """A vision transformer without its classifier, with timm's names.

    Parameters are of `param_dtype`, activations of `dtype`; means and deviations of LayerNorm and
    the weights of the attention are made in float32 at least. The position embeddings are of the
    grid of patches that the first images have.
    """

    width: int
    depth: int
    num_heads: int
    patch_size: int
    registers: int
    layer_scale: bool
    mlp: str
    attention: str = "auto"
    rematerialize: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def block_names(self) -> tuple[str, ...]:
        """The names of its blocks, in order."""
        return tuple(f"blocks_{index}" for index in range(self.depth))

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Returns the class token [n, width] and the patches [n, h', w', width].

        Both are those of the last block, after the final norm.

        Args:
          x: normalised images [n, h, w, 3].
          train: as backbones have it; nothing differs.
        """
        del train
        for size in x.shape[1:3]:
            check_size("an image's side", size, self.patch_size)
        patches = _PatchEmbedding(
            self.patch_size, self.width, self.dtype, self.param_dtype, name="patch_embed"
        )(x)
        grid = patches.shape[1:3]
        n = x.shape[0]  # may be a symbol
        tokens = self._add_tokens(patches.reshape(n, -1, self.width))
        block = nn.remat(Block) if self.rematerialize else Block
        for name in self.block_names:
            tokens = block(
                self.num_heads,
                self.layer_scale,
                self.mlp,
                self.attention,
                self.dtype,
                self.param_dtype,
                name=name,
            )(tokens)
        tokens = _norm(self, "norm")(tokens)
        patches = tokens[:, 1 + self.registers :]
        return tokens[:, 0], patches.reshape(n, *grid, self.width)

    def _add_tokens(self, patches: jax.Array) -> jax.Array:
        """Puts class token and registers before the patches [n, patches, width].

        Registers have no position (Darcet et al. 2024).
        """

        def tokens(name: str, number: int) -> jax.Array:
            shape = (number, self.width)
            return self.param(name, _TRUNCATED_NORMAL, shape, self.param_dtype).astype(self.dtype)

        n, num_patches, _ = patches.shape
        positions = tokens("pos_embed", 1 + num_patches)
        first = jnp.broadcast_to(tokens("cls_token", 1) + positions[:1], (n, 1, self.width))
        parts = [first, patches + positions[1:]]
        if self.registers:
            registers = tokens("reg_token", self.registers)
            parts.insert(1, jnp.broadcast_to(registers, (n, *registers.shape)))
        return jnp.concatenate(parts, axis=1)


def _attend(query: jax.Array, key: jax.Array, value: jax.Array, method: Any) -> jax.Array:
    """Averages the values by their weights for each query, all [n, tokens, heads, features]."""
    if query.dtype != jnp.float64:
        return jax.nn.dot_product_attention(query, key, value, implementation=method)
    # JAX's function has the weights in float32 in any case.
    products = jnp.einsum("nqhf,nkhf->nhqk", query, key) * query.shape[-1] ** -0.5
    return jnp.einsum("nhqk,nkhf->nqhf", jax.nn.softmax(products), value)


def _dense(module: _Attention | _Mlp, features: int, name: str) -> nn.Dense:
    return nn.Dense(
        features,
        kernel_init=_TRUNCATED_NORMAL,
        dtype=module.dtype,
        param_dtype=module.param_dtype,
        name=name,
    )


def _norm(module: Block | ViT, name: str) -> nn.LayerNorm:
    # DINOv2 has activations in the hundreds, where the fast variance is not exact.
    return nn.LayerNorm(
        epsilon=_EPSILON,
        use_fast_variance=False,
        dtype=module.dtype,
        param_dtype=module.param_dtype,
        name=name,
    )


def choose_attention(attention: str, dtype: Any) -> str:
    """Returns the implementation that "auto" stands for on this machine, others as they are.

    cuDNN's flash attention needs activations of 16 bits and an NVIDIA GPU of compute capability 8.
    """
    if attention != "auto":
        return attention
    device = jax.local_devices()[0]
    capability = getattr(device, "compute_capability", None)
    if device.platform != "gpu" or capability is None or jnp.dtype(dtype).itemsize != 2:
        return "xla"
    major = str(capability).split(".")[0]
    return "cudnn" if major.isdecimal() and int(major) >= 8 else "xla"


def layer_factors(name: str, decay: float) -> dict[str, float]:
    """Returns factors of the learning rate that decay with the distance from the last layer.

    As BEiT has it (Bao et al. 2022): of L blocks, block l = 0, ... has decay^(L - l), what is
    before the blocks decay^(L + 1), and the final norm 1, like what follows the network.

    Args:
      name: one of `SIZES`.
      decay: factor from a layer to the one before it.

    Returns:
      The factors by the first name of the parameters.
    """
    _, depth, _ = SIZES[name]
    blocks = {f"blocks_{index}": decay ** (depth - index) for index in range(depth)}
    first = ("patch_embed", "pos_embed", "cls_token", "reg_token")
    return {**dict.fromkeys(first, decay ** (depth + 1)), **blocks, "norm": 1.0}


def check_size(what: str, size: int, patch_size: int) -> None:
    """Checks that patches divide an image.

    Raises:
      InputError: with the nearest sizes that they divide.
    """
    if size % patch_size:
        below = size // patch_size * patch_size
        nearest = " or ".join(str(x) for x in (below, below + patch_size) if x)
        raise InputError(
            f"Patches of {patch_size} x {patch_size} pixels must divide the image: require "
            f"{what} to be a multiple of {patch_size}, got {size}; the nearest: {nearest}."
        )


def create(
    name: str,
    *,
    patch_size: int = 14,
    registers: int = 0,
    layer_scale: bool = True,
    mlp: str = "gelu",
    attention: str = "auto",
    rematerialize: bool = False,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
) -> ViT:
    """Builds a vision transformer. The defaults are those of DINOv2 (Oquab et al. 2024).

    Args:
      name: one of `SIZES`.
      patch_size: pixels; 14 of DINOv2, 16 of most others.
      registers: tokens beside the class token and the patches; 4 of DINOv2 with registers.
      layer_scale: whether each branch has a factor per feature, as in DINOv2; DINO and augreg have
        none.
      mlp: "gelu" or "swiglu".
      attention: "xla"; "cudnn", flash attention on NVIDIA GPUs with bfloat16; or "auto", whichever
        the device and the type allow. All compute the same.
      rematerialize: whether the gradient computes each block again, in place of keeping its
        activations.
      dtype: of activations.
      param_dtype: of parameters.

    Raises:
      InputError: if an option is not known or out of range.
    """
    require_known("model.backbone", name, sorted(SIZES))
    require_known("model.vit.mlp", mlp, MLPS)
    require_known("model.vit.attention", attention, ATTENTIONS)
    width, depth, num_heads = SIZES[name]
    return ViT(
        width=width,
        depth=depth,
        num_heads=num_heads,
        patch_size=require_whole("model.vit.patch_size", patch_size, 1),
        registers=require_whole("model.vit.registers", registers, 0),
        layer_scale=layer_scale,
        mlp=mlp,
        attention=attention,
        rematerialize=rematerialize,
        dtype=dtype,
        param_dtype=param_dtype,
    )
