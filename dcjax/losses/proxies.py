"""Losses with a learned proxy for each class: Proxy-NCA (P19 section 4), and recent ones."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from dcjax.core.ranges import DISTANCE, POSITIVE, Bounds, require_known, require_range
from dcjax.losses.loss import Loss
from dcjax.losses.proxy_similarities import Similarities, cross_entropy, log_sum_exp, with_proxies
from dcjax.losses.reductions import log_one_plus_sum_exp, square_root

DENOMINATORS = ("others", "all")
PROXY_ANCHOR_MARGIN = Bounds(0, 1)
ARCFACE_MARGIN = Bounds(0, math.pi / 2)


def proxy_nca_loss(similarities: Similarities, *, scale: float, denominator: str) -> Array:
    """Returns Proxy-NCA, a scalar; the formula is that of `proxy_nca`.

    Args:
      similarities: of unit vectors.
      scale: of the squared distances.
      denominator: "others" or "all".
    """
    # d = 2 - 2 s, and the 2 cancels.
    own, others = 2 * scale * similarities.own, log_sum_exp(similarities.others, 2 * scale)
    return jnp.mean(others - own) if denominator == "others" else cross_entropy(own, others)


def proxy_anchor_loss(
    similarities: Similarities, labels: Array, *, num_classes: int, margin: float, alpha: float
) -> Array:
    """Returns Proxy-Anchor, a scalar; the formula is that of `proxy_anchor`.

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


def normalized_softmax_loss(similarities: Similarities, *, temperature: float) -> Array:
    """Returns the normalised soft-max loss, a scalar; the formula is in `normalized_softmax`.

    Args:
      similarities: of unit vectors.
      temperature: t.
    """
    scale = 1 / temperature
    return cross_entropy(scale * similarities.own, log_sum_exp(similarities.others, scale))


def cosface_loss(similarities: Similarities, *, margin: float, scale: float) -> Array:
    """Returns the CosFace loss, a scalar; the formula is that of `cosface`.

    Args:
      similarities: of unit vectors.
      margin: taken from the similarity to the own class.
      scale: of the similarities.
    """
    own = scale * (similarities.own - margin)
    return cross_entropy(own, log_sum_exp(similarities.others, scale))


def arcface_loss(similarities: Similarities, *, margin: float, scale: float) -> Array:
    """Returns the ArcFace loss, a scalar; the formula is that of `arcface`.

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


def proxy_nca(
    num_classes: int, embedding_dim: int, *, scale: float = 1.0, denominator: str = "others"
) -> Loss:
    """Creates Proxy-NCA (Movshovitz-Attias et al. 2017, section 3; P19 section 4).

    L = mean_i ( scale d(x_i, p_y) + log sum_z exp(-scale d(x_i, p_z)) ),  d = ||x - p||^2, with z
    over the other classes, or over all.

    Args:
      num_classes: number of training classes.
      embedding_dim: D, size of the embedding.
      scale: of the squared distances; 1 in the paper.
      denominator: the proxies summed over: the "others", as in the paper, or "all".
    """
    require_range("scale", scale, *POSITIVE)
    require_known("denominator", denominator, DENOMINATORS)

    def compute(similarities: Similarities, labels: Array) -> Array:
        return proxy_nca_loss(similarities, scale=scale, denominator=denominator)

    return with_proxies(num_classes, embedding_dim, compute)


def proxy_anchor(
    num_classes: int, embedding_dim: int, *, margin: float = 0.1, alpha: float = 32.0
) -> Loss:
    """Creates Proxy-Anchor (Kim et al. 2020, eq. 4).

    L = mean over the classes c of the batch of log(1 + sum_{y_i = c} exp(-alpha (s_ic - margin)))
        + mean over all classes c of log(1 + sum_{y_i != c} exp(alpha (s_ic + margin))).

    Args:
      num_classes: number of training classes.
      embedding_dim: D, size of the embedding.
      margin: delta, of the similarities. The values are those of the paper's section 4.2.
      alpha: scale of the similarities.
    """
    require_range("margin", margin, *PROXY_ANCHOR_MARGIN)
    require_range("alpha", alpha, *POSITIVE)

    def compute(similarities: Similarities, labels: Array) -> Array:
        return proxy_anchor_loss(
            similarities, labels, num_classes=num_classes, margin=margin, alpha=alpha
        )

    return with_proxies(num_classes, embedding_dim, compute)


def normalized_softmax(num_classes: int, embedding_dim: int, *, temperature: float = 0.05) -> Loss:
    """Creates the normalised soft-max (Wang et al. 2017, NormFace; Zhai & Wu 2019).

    L = mean_i -log( exp(s_iy / t) / sum_z exp(s_iz / t) ).

    Args:
      num_classes: number of training classes.
      embedding_dim: D, size of the embedding.
      temperature: t, what similarities are divided by; 0.05 in Zhai & Wu.
    """
    require_range("temperature", temperature, *POSITIVE)

    def compute(similarities: Similarities, labels: Array) -> Array:
        return normalized_softmax_loss(similarities, temperature=temperature)

    return with_proxies(num_classes, embedding_dim, compute)


def cosface(
    num_classes: int, embedding_dim: int, *, margin: float = 0.35, scale: float = 64.0
) -> Loss:
    """Creates CosFace (Wang et al. 2018, eq. 4).

    The soft-max of scale s_iz, with scale (s_iy - margin) for the own class.

    Args:
      num_classes: number of training classes.
      embedding_dim: D, size of the embedding.
      margin: taken from the similarity to the own proxy; the values are the paper's.
      scale: of the similarities.
    """
    require_range("margin", margin, *DISTANCE)
    require_range("scale", scale, *POSITIVE)

    def compute(similarities: Similarities, labels: Array) -> Array:
        return cosface_loss(similarities, margin=margin, scale=scale)

    return with_proxies(num_classes, embedding_dim, compute)


def arcface(
    num_classes: int, embedding_dim: int, *, margin: float = 0.5, scale: float = 64.0
) -> Loss:
    """Creates ArcFace (Deng et al. 2019, eq. 3).

    The soft-max of scale s_iz, with scale cos(theta + margin) for the own class, s_iy = cos(theta).
    For theta + margin > pi, where that cosine rises again, s_iy - margin sin(margin) stands for it,
    which goes on falling.

    Args:
      num_classes: number of training classes.
      embedding_dim: D, size of the embedding.
      margin: radians, added to the angle to the own proxy; the values are the paper's.
      scale: of the similarities.
    """
    require_range("margin", margin, *ARCFACE_MARGIN)
    require_range("scale", scale, *POSITIVE)

    def compute(similarities: Similarities, labels: Array) -> Array:
        return arcface_loss(similarities, margin=margin, scale=scale)

    return with_proxies(num_classes, embedding_dim, compute)
