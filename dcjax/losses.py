"""Metric-learning losses as pairs of pure functions: the margin loss (P21 Table VI)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from dcjax import mining

Params = dict[str, Array]

_MIN_SQUARED_DISTANCE = 1e-4


class Loss(NamedTuple):
    """A loss: init(key) -> params; apply(params, embeddings[B, D], labels[B], key) -> loss, stats.

    Attributes:
      init: makes the loss's own trainable parameters, {} if it has none.
      apply: returns a scalar and a dict of scalars to log.
    """

    init: Callable[[Array], Params]
    apply: Callable[[Params, Array, Array, Array], tuple[Array, dict[str, Array]]]


class MarginOptions(NamedTuple):
    """Options of the margin loss.

    Attributes:
      beta: the boundary between positive and negative distances; its start where it is learned.
      margin: how far from the boundary a pair has to be, to either side.
      nu: weight of the L1 norm of beta.
      learn_beta: "none", "shared" (one beta) or "per_class" (one for each class of the anchor).
      dims: the dimension that sampling assumes, "full" (embedding size) or "active" (coordinates
        that are non-zero in the batch, those that the cluster's mask leaves).
      cutoff: sampling takes smaller distances for this one.
      upper_cutoff: sampling nearly ignores pairs beyond this distance.
    """

    beta: float
    margin: float
    nu: float
    learn_beta: str
    dims: str
    cutoff: float
    upper_cutoff: float


def create(name: str, *, num_classes: int, embedding_dim: int, **options: Any) -> Loss:
    """Returns the loss called name.

    Args:
      name: a known loss: "margin".
      num_classes: number of training classes; labels are below it.
      embedding_dim: size D of the embedding.
      **options: every option of that loss, for example those of `MarginOptions`.

    Raises:
      ValueError: unknown name, or an option that is unknown, missing or out of its range.
    """
    if name not in KNOWN:
        raise ValueError(f"Unknown loss {name!r}; known losses are {', '.join(KNOWN)}.")
    options_type, build = _LOSSES[name]
    known = options_type._fields
    if set(options) != set(known):
        raise ValueError(
            f"Loss {name!r} takes exactly the options {', '.join(known)}; "
            f"unknown: {sorted(set(options) - set(known))}, "
            f"missing: {sorted(set(known) - set(options))}."
        )
    return build(num_classes, embedding_dim, options_type(**options))


def pairwise_distances(embeddings: Array) -> Array:
    """Returns Euclidean distances [B, B] = sqrt(max(||x_i||^2 + ||x_j||^2 - 2 <x_i, x_j>, 1e-4)).

    The gradient is 0 where the distance is cut off at 0.01, as it is from a row to itself.
    """
    x = embeddings.astype(jnp.promote_types(embeddings.dtype, jnp.float32))
    # GPUs and TPUs keep 10 or 7 bits of the factors by default, too few for small distances.
    products = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.diagonal(products)
    squared = norms[:, None] + norms[None, :] - 2 * products
    # This way round a NaN stays one, so that a broken network cannot pass for a trained one.
    return jnp.sqrt(jnp.where(squared < _MIN_SQUARED_DISTANCE, _MIN_SQUARED_DISTANCE, squared))


def margin(
    distances: Array,
    positives: Array,
    negatives: Array,
    *,
    beta: ArrayLike,
    margin: float,
    nu: float = 0.0,
) -> Array:
    """Returns the margin loss of the given pairs, a scalar (Wu et al. 2017, section 4).

    L = ( sum_ij P_ij relu(d_ij - beta_i + margin) + N_ij relu(beta_i - d_ij + margin)
          + nu sum_i n_i |beta_i| ) / number of pairs with a non-zero term;  0 if there is none.

    Args:
      distances: d[B, B], of L2-normalised embeddings.
      positives: P[B, B], how often the ordered pair (anchor i, j) counts as a positive one.
      negatives: N[B, B], how often it counts as a negative one.
      beta: boundary, a scalar or one for each anchor [B].
      margin: half the width of the band around the boundary in which pairs have a loss.
      nu: weight of the L1 norm of beta, which counts once for each of an anchor's n_i positives.
    """
    dtype = distances.dtype
    positives, negatives = positives.astype(dtype), negatives.astype(dtype)
    beta = jnp.reshape(jnp.asarray(beta, dtype), (-1, 1))
    pull = jax.nn.relu(distances - beta + margin)
    push = jax.nn.relu(beta - distances + margin)
    count = jnp.sum(positives * (pull > 0) + negatives * (push > 0))
    pairs = jnp.sum(positives * pull + negatives * push)  # 0 if nothing counts, NaN if one is
    regulariser = nu * jnp.sum(jnp.sum(positives, axis=1, keepdims=True) * jnp.abs(beta))
    return (pairs + jnp.where(count > 0, regulariser, 0.0)) / jnp.maximum(count, 1)


def _create_margin(num_classes: int, embedding_dim: int, options: MarginOptions) -> Loss:
    """Returns the margin loss on pairs drawn by distance-weighted sampling (P21 Table VI)."""
    _check_margin(options)

    def init(key: Array) -> Params:
        del key  # beta starts as told
        shapes = {"shared": (), "per_class": (num_classes,)}
        if options.learn_beta == "none":
            return {}
        return {"beta": jnp.full(shapes[options.learn_beta], options.beta, jnp.result_type(float))}

    def apply(
        params: Params, embeddings: Array, labels: Array, key: Array
    ) -> tuple[Array, dict[str, Array]]:
        # The papers' code takes sqrt(||x_i - x_j||^2 + 1e-8) here and these distances for mining.
        # They differ by 5e-7 at 0.01 and less beyond: one matrix serves both.
        distances = pairwise_distances(embeddings)
        dim = embedding_dim if options.dims == "full" else mining.effective_dim(embeddings)
        positives, negatives = mining.distance_weighted_pairs(
            key, distances, labels, dim=dim, cutoff=options.cutoff, upper=options.upper_cutoff
        )
        beta = params.get("beta", jnp.asarray(options.beta, distances.dtype))
        if options.learn_beta == "per_class":
            beta = beta[labels]
        loss = margin(
            distances, positives, negatives, beta=beta, margin=options.margin, nu=options.nu
        )
        stats = {
            "positive_distance": _weighted_mean(distances, positives),
            "negative_distance": _weighted_mean(distances, negatives),
            "beta": jnp.mean(beta),
        }
        return loss, jax.lax.stop_gradient(stats)

    return Loss(init, apply)


def _check_margin(options: MarginOptions) -> None:
    """Raises ValueError for options out of their range."""
    choices = {"learn_beta": ("none", "shared", "per_class"), "dims": ("full", "active")}
    for name, known in choices.items():
        if (value := getattr(options, name)) not in known:
            raise ValueError(f"Unknown {name} {value!r}; known are {', '.join(known)}.")
    if not (options.margin >= 0 and options.nu >= 0 and 0 < options.beta <= 2):
        raise ValueError(
            "Require margin >= 0, nu >= 0 and 0 < beta <= 2 (distances of unit vectors), "
            f"got margin={options.margin}, nu={options.nu} and beta={options.beta}."
        )
    if not 0 < options.cutoff < options.upper_cutoff <= 2:
        raise ValueError(
            "Require 0 < cutoff < upper_cutoff <= 2 (distances of unit vectors), "
            f"got cutoff={options.cutoff} and upper_cutoff={options.upper_cutoff}."
        )


def _weighted_mean(values: Array, weights: Array) -> Array:
    """Returns the mean of values[B, B] with weights[B, B]; 0 without weights."""
    return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1)


_LOSSES: dict[str, tuple[Any, Callable[[int, int, Any], Loss]]] = {
    "margin": (MarginOptions, _create_margin),
}
KNOWN = tuple(sorted(_LOSSES))
