"""Losses with a learned proxy for each class: Proxy-NCA (P19 section 4), and those of today."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dcjax.core.ranges import SMALLEST, require_known, require_range
from dcjax.losses.loss import Loss
from dcjax.losses.proxy_similarities import Similarities, cross_entropy, log_sum_exp, with_proxies
from dcjax.losses.reductions import log_one_plus_sum_exp, square_root


class ProxyNCAOptions(NamedTuple):
    """Options of Proxy-NCA.

    Attributes:
      scale: of the squared distances.
      denominator: the proxies summed over: the "others", as in the paper, or "all".
    """

    scale: float
    denominator: str


class ProxyAnchorOptions(NamedTuple):
    """Options of Proxy-Anchor.

    Attributes:
      margin: delta, of the similarities.
      alpha: their scale.
    """

    margin: float
    alpha: float


class NormalizedSoftmaxOptions(NamedTuple):
    """Options of the normalised soft-max.

    Attributes:
      temperature: what similarities are divided by.
    """

    temperature: float


class CosFaceOptions(NamedTuple):
    """Options of CosFace.

    Attributes:
      margin: taken from the similarity to the own proxy.
      scale: of the similarities.
    """

    margin: float
    scale: float


class ArcFaceOptions(NamedTuple):
    """Options of ArcFace.

    Attributes:
      margin: radians, added to the angle to the own proxy.
      scale: of the similarities.
    """

    margin: float
    scale: float


def proxy_nca(similarities: Similarities, *, scale: float, denominator: str) -> Array:
    """Returns Proxy-NCA, a scalar (Movshovitz-Attias et al. 2017, section 3).

    L = mean_i ( scale d(x_i, p_y) + log sum_z exp(-scale d(x_i, p_z)) ),  d = ||x - p||^2, with z
    over the other classes, or over all.

    Args:
      similarities: of unit vectors.
      scale: of the squared distances.
      denominator: "others" or "all".
    """
    # d = 2 - 2 s, and the 2 cancels.
    own, others = 2 * scale * similarities.own, log_sum_exp(similarities.others, 2 * scale)
    return jnp.mean(others - own) if denominator == "others" else cross_entropy(own, others)


def proxy_anchor(
    similarities: Similarities, labels: Array, *, num_classes: int, margin: float, alpha: float
) -> Array:
    """Returns Proxy-Anchor, a scalar (Kim et al. 2020, eq. 4).

    L = mean over the classes c of the batch of log(1 + sum_{y_i = c} exp(-alpha (s_ic - margin)))
        + mean over all classes c of log(1 + sum_{y_i != c} exp(alpha (s_ic + margin))).

    Args:
      similarities: of unit vectors.
      labels: int [B].
      num_classes: number of all classes.
      margin: delta.
      alpha: scale of the similarities.
    """
    same = labels[:, None] == labels[None, :]
    pull = log_one_plus_sum_exp(-alpha * (similarities.own - margin)[None, :], same)
    share = 1 / jnp.sum(same, axis=1)  # of an image in its class, which counts once
    push = _log_one_plus_sum_exp_of_columns(similarities.others, margin, alpha)
    return jnp.sum(share * pull) / jnp.sum(share) + jnp.sum(push) / num_classes


def _log_one_plus_sum_exp_of_columns(similarities: Array, margin: float, alpha: float) -> Array:
    """Returns log(1 + sum_i exp(alpha (s_ij + margin))) [rows], one [B, rows] in memory."""
    largest = jax.lax.stop_gradient(jnp.maximum(jnp.max(similarities, axis=0), -margin))
    exponentials = jnp.exp(alpha * (similarities - largest))
    above = alpha * (largest + margin)
    return above + jnp.log(jnp.exp(-above) + jnp.sum(exponentials, axis=0))


def normalized_softmax(similarities: Similarities, *, temperature: float) -> Array:
    """Returns the normalised soft-max loss, a scalar (Wang et al. 2017; Zhai & Wu 2019).

    L = mean_i -log( exp(s_iy / t) / sum_z exp(s_iz / t) ).

    Args:
      similarities: of unit vectors.
      temperature: t.
    """
    scale = 1 / temperature
    return cross_entropy(scale * similarities.own, log_sum_exp(similarities.others, scale))


def cosface(similarities: Similarities, *, margin: float, scale: float) -> Array:
    """Returns the CosFace loss, a scalar (Wang et al. 2018, eq. 4).

    The soft-max of scale s_iz, with scale (s_iy - margin) for the own class.

    Args:
      similarities: of unit vectors.
      margin: taken from the similarity to the own class.
      scale: of the similarities.
    """
    own = scale * (similarities.own - margin)
    return cross_entropy(own, log_sum_exp(similarities.others, scale))


def arcface(similarities: Similarities, *, margin: float, scale: float) -> Array:
    """Returns the ArcFace loss, a scalar (Deng et al. 2019, eq. 3).

    The soft-max of scale s_iz, with scale cos(theta + margin) for the own class, s_iy = cos(theta).
    For theta + margin > pi, where that cosine rises again, s_iy - margin sin(margin) stands for it,
    which goes on falling.

    Args:
      similarities: of unit vectors.
      margin: radians, at most pi / 2.
      scale: of the similarities.
    """
    cosine = similarities.own
    moved = cosine * math.cos(margin) - square_root(1 - cosine**2) * math.sin(margin)
    beyond = cosine - margin * math.sin(margin)
    own = scale * jnp.where(cosine >= -math.cos(margin), moved, beyond)
    return cross_entropy(own, log_sum_exp(similarities.others, scale))


def _create_proxy_nca(num_classes: int, embedding_dim: int, options: ProxyNCAOptions) -> Loss:
    require_range("scale", options.scale, SMALLEST)
    require_known("denominator", options.denominator, ("others", "all"))
    return with_proxies(num_classes, embedding_dim, lambda s, _: proxy_nca(s, **options._asdict()))


def _create_proxy_anchor(num_classes: int, embedding_dim: int, options: ProxyAnchorOptions) -> Loss:
    require_range("margin", options.margin, 0, 1)
    require_range("alpha", options.alpha, SMALLEST)

    def compute(similarities: Similarities, labels: Array) -> Array:
        return proxy_anchor(similarities, labels, num_classes=num_classes, **options._asdict())

    return with_proxies(num_classes, embedding_dim, compute)


def _create_normalized_softmax(
    num_classes: int, embedding_dim: int, options: NormalizedSoftmaxOptions
) -> Loss:
    require_range("temperature", options.temperature, SMALLEST)
    return with_proxies(
        num_classes, embedding_dim, lambda s, _: normalized_softmax(s, **options._asdict())
    )


def _create_cosface(num_classes: int, embedding_dim: int, options: CosFaceOptions) -> Loss:
    require_range("margin", options.margin, 0, 2)
    require_range("scale", options.scale, SMALLEST)
    return with_proxies(num_classes, embedding_dim, lambda s, _: cosface(s, **options._asdict()))


def _create_arcface(num_classes: int, embedding_dim: int, options: ArcFaceOptions) -> Loss:
    require_range("margin", options.margin, 0, math.pi / 2)
    require_range("scale", options.scale, SMALLEST)
    return with_proxies(num_classes, embedding_dim, lambda s, _: arcface(s, **options._asdict()))


LOSSES: dict[str, Any] = {
    "proxy_nca": (ProxyNCAOptions, _create_proxy_nca),
    "proxy_anchor": (ProxyAnchorOptions, _create_proxy_anchor),
    "normalized_softmax": (NormalizedSoftmaxOptions, _create_normalized_softmax),
    "cosface": (CosFaceOptions, _create_cosface),
    "arcface": (ArcFaceOptions, _create_arcface),
}
