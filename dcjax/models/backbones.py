"""Backbones by name, and what fits each of them: options, pixels and pooling."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dcjax.core import plugins
from dcjax.core.errors import InputError
from dcjax.core.ranges import require_known
from dcjax.models import pixel_statistics, resnet, vit
from dcjax.models.cpu_convolution import METHODS
from dcjax.models.pixel_statistics import Statistics
from dcjax.models.resnet import ResNet

NAMES = (*sorted(resnet.BACKBONES), *vit.SIZES)
NONE = "none"  # the name for features in the place of images
BATCH_NORMS = ("frozen", "train")
TRAINED = ("all", "embedding", "last_blocks")  # what is trained, see `trained_modules`
_NUM_STAGES, _WIDTH = 4, 64  # of a published ResNet


def _average(token: jax.Array | None, feature_map: jax.Array) -> jax.Array:
    del token
    return jnp.mean(feature_map, axis=(1, 2))


def _maximum(token: jax.Array | None, feature_map: jax.Array) -> jax.Array:
    del token
    return jnp.max(feature_map, axis=(1, 2))


def _class(token: jax.Array, feature_map: jax.Array) -> jax.Array:
    del feature_map
    return token


def _class_and_average(token: jax.Array, feature_map: jax.Array) -> jax.Array:
    return jnp.concatenate([token, _average(None, feature_map)], axis=-1)


_OF_MAPS: dict[str, Callable[..., jax.Array]] = {"average": _average, "max": _maximum}
_OF_TOKENS = {"class": _class, "class_and_average": _class_and_average}
POOLINGS = _OF_MAPS | _OF_TOKENS


def pool(features: jax.Array | tuple[jax.Array, jax.Array], pooling: str, dtype: Any) -> jax.Array:
    """Pools what a backbone returns for n images.

    Args:
      features: a feature map [n, h, w, F]; or a class token [n, F] and a feature map.
      pooling: one of `POOLINGS`.
      dtype: in which it is done.

    Returns:
      [n, F]; of "class_and_average", [n, 2 F].

    Raises:
      InputError: if the pooling needs a class token and there is none.
    """
    if not isinstance(features, tuple):
        _require_map_pooling(pooling, "the backbone, which returns a feature map alone,")
        return POOLINGS[pooling](None, features.astype(dtype))
    token, feature_map = features
    return POOLINGS[pooling](token.astype(dtype), feature_map.astype(dtype))


def _require_map_pooling(pooling: str, backbone: str) -> None:
    if pooling in _OF_TOKENS:
        raise InputError(
            f"model.pooling={pooling} needs a class token, but {backbone} has none; give "
            f"{' or '.join(_OF_MAPS)}, or a model.backbone that has one: {', '.join(vit.SIZES)}."
        )


def create(
    name: str,
    *,
    custom: Mapping[str, Any],
    num_stages: int,
    width: int,
    batch_norm: str,
    convolution: str,
    vit_options: Mapping[str, Any],
    rematerialize: bool,
    pooling: str,
    dtype: Any,
    param_dtype: Any,
) -> nn.Module | None:
    """Builds a backbone, None for "none"; see `masked_embedder.create`.

    Raises:
      InputError: if a name is unknown, a number out of range, or an option of another backbone.
    """
    require_known("model.pooling", pooling, sorted(POOLINGS))
    if plugins.is_custom(name):
        if rematerialize:
            raise InputError(
                "model.rematerialize is for the backbones of dcjax: require it False for "
                f"model.backbone={name}, whose module may have flax.linen.remat."
            )
        return plugins.load(name, nn.Module)(dtype=dtype, **custom)
    if name == NONE:
        return None
    require_known("model.backbone", name, (*NAMES, NONE))
    types = {"dtype": dtype, "param_dtype": param_dtype}
    if name in vit.SIZES:
        if (num_stages, width) != (_NUM_STAGES, _WIDTH):
            raise InputError(
                f"model.num_stages and model.width are of ResNets: require {_NUM_STAGES} and "
                f"{_WIDTH} for {name}, got {num_stages} and {width}."
            )
        return vit.create(name, **vit_options, rematerialize=rematerialize, **types)
    _require_map_pooling(pooling, name)
    return _create_resnet(name, num_stages, width, batch_norm, convolution, rematerialize, types)


def _create_resnet(
    name: str,
    num_stages: int,
    width: int,
    batch_norm: str,
    convolution: str,
    rematerialize: bool,
    types: Mapping[str, Any],
) -> ResNet:
    require_known("model.batch_norm", batch_norm, sorted(BATCH_NORMS))
    require_known("model.convolution", convolution, sorted(METHODS))
    block, stage_sizes, stem = resnet.BACKBONES[name]
    if not 1 <= num_stages <= len(stage_sizes):
        raise InputError(
            f"model.num_stages must be 1 to {len(stage_sizes)} for {name}, got {num_stages}."
        )
    return ResNet(
        block=block,
        stage_sizes=stage_sizes[:num_stages],
        stem=stem,
        width=width,
        frozen_statistics=batch_norm == "frozen",
        convolution=convolution,
        rematerialize=rematerialize,
        **types,
    )


def layer_factors(name: str, decay: float) -> dict[str, float]:
    """Returns factors of the learning rate by the first name of a backbone's parameters.

    Args:
      name: of the backbone.
      decay: factor from a layer to the one before it, see `vit.layer_factors`; 1: none.

    Raises:
      InputError: if the backbone is no vision transformer, and the decay not 1.
    """
    if decay == 1:
        return {}
    if name not in vit.SIZES:
        raise InputError(
            "optimizer.layer_decay lowers the rates of a vision transformer from block to block: "
            f"require 1 for model.backbone={name}, got {decay:g}."
        )
    return vit.layer_factors(name, decay)


def trained_modules(
    backbone: nn.Module | None, trained: str, last_blocks: int
) -> frozenset[str] | None:
    """Returns the names of the modules of a backbone that are trained; None: all of them.

    A block is a residual block of a ResNet, or attention and MLP of a vision transformer, whose
    final norm is trained with the last block.

    Args:
      backbone: the network; None: there is none.
      trained: "all"; "embedding", so none; or "last_blocks".
      last_blocks: how many these are, from 1 on.

    Raises:
      InputError: if it has fewer; if it is custom, so that its blocks are not known; or if its
        running statistics would change.
    """
    require_known("model.train", trained, TRAINED)
    if trained != "last_blocks":
        return None if trained == "all" and backbone is not None else frozenset()
    if not isinstance(backbone, ResNet | vit.ViT):
        raise InputError(
            "model.train=last_blocks is for the backbones of dcjax, whose blocks are known: "
            "require model.train=all or embedding for one of your own, and for none."
        )
    if isinstance(backbone, ResNet) and not backbone.frozen_statistics:
        raise InputError(
            "model.train=last_blocks leaves the blocks before as they are: require "
            "model.batch_norm=frozen, got train, which changes their running statistics."
        )
    names = backbone.block_names
    if not 1 <= last_blocks <= len(names):
        raise InputError(
            f"model.last_blocks must be 1 to {len(names)}, the blocks of the backbone, got "
            f"{last_blocks}."
        )
    last = frozenset(names[-last_blocks:])
    return last | {"norm"} if isinstance(backbone, vit.ViT) else last


def choose_statistics(pixels: str, name: str, backbone: nn.Module | None) -> Statistics:
    """Returns the mean and deviation of pixels that a backbone expects.

    Published ResNets and vision transformers with LayerScale (DINOv2) are trained with ImageNet's.
    Others, which are equal in names and shapes, are trained with either: DINO's with ImageNet's,
    augreg's with 0.5.

    Args:
      pixels: one of `pixel_statistics.SETTINGS`.
      name: of the backbone.
      backbone: the network.

    Raises:
      InputError: if "auto" does not say which.
    """
    require_known("model.pixels", pixels, pixel_statistics.SETTINGS)
    if pixels != "auto":
        return pixel_statistics.KNOWN[pixels]
    if isinstance(backbone, vit.ViT) and not backbone.layer_scale:
        raise InputError(
            f"A {name} without LayerScale may expect either mean and deviation of pixels: give "
            "--config.model.pixels=imagenet for weights of DINO or DeiT, or "
            "--config.model.pixels=half for those of augreg and of Google, got auto."
        )
    return pixel_statistics.KNOWN["imagenet"]
