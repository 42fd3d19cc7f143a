"""Losses with a learned proxy for each class: Proxy-NCA (P19 section 4), and recent ones."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from dcjax.core.arrays import require_integers
from dcjax.core.errors import InputError
from dcjax.core.ranges import (
    DISTANCE,
    POSITIVE,
    Bounds,
    require_known,
    require_range,
)
from dcjax.losses.loss import Loss
from dcjax.losses.proxy_similarities import (
    Similarities,
    cross_entropy,
    log_sum_exp,
    with_proxies,
)
from dcjax.losses.reductions import log_one_plus_sum_exp, square_root

DENOMINATORS = ("others", "all")
PROXY_ANCHOR_MARGIN = Bounds(0, 1)
ARCFACE_MARGIN = Bounds(0, math.pi / 2)
SIZE_EXPONENT = Bounds(0, 10)


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


def arcface_loss(similarities: Similarities, *, margin: ArrayLike, scale: float) -> Array:
    """Returns the ArcFace loss, a scalar; the formula is that of `arcface`.

    Args:
      similarities: of unit vectors.
      margin: radians, at most pi / 2, a scalar or one for each image [B].
      scale: of the similarities.
    """
    cosine = similarities.own
    margin = jnp.asarray(margin, cosine.dtype)
    cos, sin = jnp.cos(margin), jnp.sin(margin)
    moved = cosine * cos - square_root(1 - cosine**2) * sin
    beyond = cosine - margin * sin
    own = scale * jnp.where(cosine >= -cos, moved, beyond)
    return cross_entropy(own, log_sum_exp(similarities.others, scale))


def class_margins(
    class_sizes: ArrayLike, *, margin: float, size_exponent: float, least_margin: float
) -> np.ndarray:
    """Returns the margin of each class [C], margin n^-size_exponent + least_margin.

    Args:
      class_sizes: n [C], numbers of images; a class without any has the margin of one image.
      margin: beyond the least one, of a class of one image.
      size_exponent: how fast it falls with the number of images.
      least_margin: of a class of very many images.
    """
    sizes = np.maximum(np.asarray(class_sizes, np.float64), 1)
    return margin * sizes**-size_exponent + least_margin


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
    num_classes: int,
    embedding_dim: int,
    class_sizes: ArrayLike | None,
    *,
    margin: float = 0.5,
    scale: float = 64.0,
    size_exponent: float = 0.0,
    least_margin: float = 0.0,
) -> Loss:
    """Creates ArcFace (Deng et al. 2019, eq. 3), its margin by class size if wanted.

    The soft-max of scale s_iz, with scale cos(theta + m_y) for the own class, s_iy = cos(theta).
    For theta + m_y > pi, where that cosine rises again, s_iy - m_y sin(m_y) stands for it, which
    goes on falling. The margin of a class of n_y images is
    m_y = margin n_y^-size_exponent + least_margin, which gives rare classes more room (the dynamic
    margins of Ha et al. 2020, section 2.2, with 0.5, 0.25 and 0.05).

    Args:
      num_classes: number of training classes.
      embedding_dim: D, size of the embedding.
      class_sizes: number of training images of each class [num_classes]; needed for margins that
        depend on it.
      margin: radians, added to the angle to the own proxy; the values are those of Deng et al.
      scale: of the similarities.
      size_exponent: lambda of Ha et al.; 0: all classes have the same margin.
      least_margin: b of Ha et al., radians.
    """
    compute = arcface_objective(
        num_classes,
        class_sizes,
        margin=margin,
        scale=scale,
        size_exponent=size_exponent,
        least_margin=least_margin,
    )
    return with_proxies(num_classes, embedding_dim, compute)


def arcface_objective(
    num_classes: int,
    class_sizes: ArrayLike | None,
    *,
    margin: float,
    scale: float,
    size_exponent: float,
    least_margin: float,
) -> Callable[[Similarities, Array], Array]:
    """Returns the function (similarities, labels[B]) -> loss, of the arguments of `arcface`.

    Raises:
      InputError: if an option is out of range, or class sizes are needed and not given.
    """
    require_range("margin", margin, *ARCFACE_MARGIN)
    require_range("scale", scale, *POSITIVE)
    require_range("size_exponent", size_exponent, *SIZE_EXPONENT)
    require_range("least_margin", least_margin, *ARCFACE_MARGIN)
    require_range("margin + least_margin", margin + least_margin, *ARCFACE_MARGIN)
    if not size_exponent:
        return lambda similarities, _: arcface_loss(
            similarities, margin=margin + least_margin, scale=scale
        )
    if class_sizes is None:
        raise InputError(
            f"A margin by class size, size_exponent={size_exponent}, needs class_sizes, the number "
            "of training images of each class."
        )
    margins = class_margins(
        require_integers("class_sizes", class_sizes, num_classes, 0),
        margin=margin,
        size_exponent=size_exponent,
        least_margin=least_margin,
    )
    return lambda similarities, labels: arcface_loss(
        similarities, margin=jnp.asarray(margins)[labels], scale=scale
    )
