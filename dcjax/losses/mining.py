"""Miners select the positives and negatives of each anchor; they are pure functions.

A miner takes (key, comparisons) and returns weighted pairs, or triplets. A loss of pairs counts the
pairs of triplets; a loss of triplets uses all triplets of pairs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dcjax.core import options, plugins
from dcjax.core.errors import InputError
from dcjax.core.ranges import DISTANCE, require_known, require_range
from dcjax.losses.distance_weighting import distance_weighted_probabilities, draw, effective_dim
from dcjax.losses.pairs import Comparisons, Pairs, Triplets, fold_positives, smallest

__all__ = ["KNOWN", "Miner", "create", "distance_weighted_probabilities"]

Miner = Callable[[Array, Comparisons], Pairs | Triplets]

DIMS = ("full", "active")
EASY_NEGATIVES = ("semi_hard", "hard")
FALLBACKS = ("farthest", "none")


def create(name: str, **given: Any) -> Miner:
    """Returns the miner called name.

    Args:
      name: one of `KNOWN`, or "package.module:function", a function of your own that takes the
        options and returns a miner.
      **given: options of that miner, which are the arguments of its function in `MINERS`; those
        left out have their defaults.

    Raises:
      InputError: unknown name, or an option that is unknown or out of its range.
    """
    if plugins.is_custom(name):
        return plugins.load(name, Callable)(**given)
    require_known("miner", name, KNOWN)
    options.require(f"miner {name!r}", given, options.of(MINERS[name]))
    return MINERS[name](**given)


def as_miner(miner: str | Miner) -> Miner:
    """Returns a miner, made with its default options where it is given by name."""
    if isinstance(miner, str):
        return create(miner)
    if not callable(miner):
        raise InputError(f"Require a miner of mining.create or the name of one, got {miner!r}.")
    return miner


def options_of(name: str) -> tuple[str, ...]:
    """Returns the names of a known miner's options.

    Raises:
      InputError: unknown name.
    """
    require_known("miner", name, KNOWN)
    return tuple(options.of(MINERS[name]))


def distance_weighted(
    *, dims: str = "full", cutoff: float = 0.5, upper_cutoff: float = 1.4
) -> Miner:
    """Returns the miner of distance-weighted sampling (Wu et al. 2017, section 4; P21 Table VI).

    Args:
      dims: the dimension it assumes, "full" (embedding size), as in P21's code, or "active"
        (coordinates that are non-zero in the batch, those that the cluster's mask leaves).
      cutoff: smaller distances count as this one; 0.5 as in the paper, its lambda.
      upper_cutoff: pairs beyond this distance are next to never drawn. At 1.4, the sum of beta and
        margin in P21, they have no margin loss.
    """
    require_known("dims", dims, DIMS)
    if not 0 < cutoff < upper_cutoff <= DISTANCE.high:
        raise InputError(
            "Require 0 < mining.cutoff < mining.upper_cutoff <= 2 (distances of unit vectors), "
            f"got cutoff={cutoff} and upper_cutoff={upper_cutoff}."
        )

    def mine(key: Array, compared: Comparisons) -> Triplets:
        anchors = compared.anchors
        dim = anchors.shape[1] if dims == "full" else effective_dim(anchors)
        return draw(
            key,
            compared.distances,
            compared.positives,
            compared.negatives,
            dim=dim,
            cutoff=cutoff,
            upper=upper_cutoff,
        )

    return mine


def semi_hard(*, fallback: str = "farthest") -> Miner:
    """Returns the miner of the nearest negative that is farther than the positive, for each pair.

    Schroff et al. 2015 (FaceNet), section 3.2; their band of a margin beyond the positive holds all
    that has a loss. Distances are compared as they are: squares would have the same order.

    Args:
      fallback: what a positive pair without such a negative takes: "farthest", of all negatives, as
        P21's code does, or "none", as in FaceNet: the pair is left out.
    """
    require_known("fallback", fallback, FALLBACKS)

    def mine(key: Array, compared: Comparisons) -> Triplets:
        del key
        distances = jax.lax.stop_gradient(compared.distances)

        def pair(carried: tuple[Array, Array], is_positive: Array) -> tuple[Array, Array]:
            columns, valid = carried
            bound = jnp.sum(jnp.where(is_positive, distances, 0), axis=1, keepdims=True)
            column, exists = _nearest_farther(distances, compared.negatives, bound, fallback)
            return jnp.where(is_positive, column, columns), jnp.where(is_positive, exists, valid)

        own_columns = jnp.broadcast_to(jnp.arange(distances.shape[1]), distances.shape)
        start = jnp.zeros_like(own_columns), jnp.zeros_like(compared.positives)
        return Triplets(own_columns, *fold_positives(pair, start, compared.positives))

    return mine


def hard() -> Miner:
    """Returns the miner of each anchor's farthest positive and nearest negative.

    Hermans et al. 2017 (In Defense of the Triplet Loss), section 2.
    """

    def mine(key: Array, compared: Comparisons) -> Triplets:
        del key
        positives = jnp.argmax(_where(compared.positives, compared.distances, -1), axis=1)
        negatives = jnp.argmin(_where(compared.negatives, compared.distances, 3), axis=1)
        return Triplets(positives[:, None], negatives[:, None], _has_both(compared))

    return mine


def easy_positive(*, easy_negatives: str = "semi_hard", fallback: str = "farthest") -> Miner:
    """Returns the miner of each anchor's nearest positive, with one negative.

    Xuan et al. 2020 (Improved Embeddings with Easy Positive Triplet Mining), section 3.

    Args:
      easy_negatives: "semi_hard", the nearest that is farther than the positive, or "hard", the
        nearest of all. The paper has both.
      fallback: as in `semi_hard`.
    """
    require_known("easy_negatives", easy_negatives, EASY_NEGATIVES)
    require_known("fallback", fallback, FALLBACKS)

    def mine(key: Array, compared: Comparisons) -> Triplets:
        del key
        distances = jax.lax.stop_gradient(compared.distances)
        to_positives = _where(compared.positives, distances, 3)
        positives = jnp.argmin(to_positives, axis=1)[:, None]
        valid = _has_both(compared)
        if easy_negatives == "hard":
            nearest = jnp.argmin(_where(compared.negatives, distances, 3), axis=1)
            return Triplets(positives, nearest[:, None], valid)
        bounds = jnp.min(to_positives, axis=1, keepdims=True)
        farther, exists = _nearest_farther(distances, compared.negatives, bounds, fallback)
        return Triplets(positives, farther, valid & exists)

    return mine


def nearest(*, cutoff: float = 0.5) -> Miner:
    """Returns the miner of the nearest negatives beyond a cut-off, as P19's code has it.

    q = floor(mean positives per anchor), at least 1; the t-th positive of an anchor, in the order
    of the batch, goes with its t-th nearest negative at distance cutoff or more, for t <= q.

    Args:
      cutoff: nearer negatives are left out; 0.5 in P19's code.
    """
    require_range("cutoff", cutoff, *DISTANCE)

    def mine(key: Array, compared: Comparisons) -> Triplets:
        del key
        positives, negatives = compared.positives, compared.negatives
        num_draws = jnp.maximum(jnp.sum(positives) // len(positives), 1)
        eligible = negatives & (compared.distances >= cutoff)
        by_distance = smallest(_where(eligible, compared.distances, 3), num_draws)
        counts = jnp.minimum(jnp.sum(positives, axis=1), jnp.sum(eligible, axis=1))
        slot = jnp.arange(positives.shape[1])
        valid = slot < jnp.minimum(counts, num_draws)[:, None]
        in_turn = smallest(jnp.where(positives, slot, jnp.inf), num_draws)
        return Triplets(in_turn, by_distance, valid)

    return mine


def all_pairs() -> Miner:
    """Returns the miner that leaves out nothing."""

    def mine(key: Array, compared: Comparisons) -> Pairs:
        del key
        return _weights(compared, compared.positives, compared.negatives)

    return mine


def multi_similarity(*, epsilon: float = 0.1) -> Miner:
    """Returns the miner of pairs that are hard relative to others (Wang et al. 2019, section 4).

    A negative counts if it is more similar than the least similar positive - epsilon, a positive if
    it is less similar than the most similar negative + epsilon.

    Args:
      epsilon: how much less hard than the hardest a pair may be; 0.1 in the paper.
    """
    require_range("epsilon", epsilon, *DISTANCE)

    def mine(key: Array, compared: Comparisons) -> Pairs:
        del key
        s, positives, negatives = compared.similarities, compared.positives, compared.negatives
        least = jnp.min(_where(positives, s, jnp.inf), axis=1, keepdims=True)
        most = jnp.max(_where(negatives, s, -jnp.inf), axis=1, keepdims=True)
        return _weights(
            compared, positives & (s < most + epsilon), negatives & (s > least - epsilon)
        )

    return mine


def _nearest_farther(
    distances: Array, negatives: Array, bound: Array, fallback: str
) -> tuple[Array, Array]:
    """Returns the nearest negative beyond each anchor's bound [B, 1], and whether there is one.

    Without one and by fallback "farthest": the farthest negative, if there are any.
    """
    beyond = negatives & (distances > bound)
    exists = jnp.any(beyond, axis=1, keepdims=True)
    nearest = jnp.argmin(_where(beyond, distances, jnp.inf), axis=1, keepdims=True)
    if fallback == "none":
        return nearest, exists
    farthest = jnp.argmax(_where(negatives, distances, -1), axis=1, keepdims=True)
    return jnp.where(exists, nearest, farthest), jnp.any(negatives, axis=1, keepdims=True)


def _has_both(compared: Comparisons) -> Array:
    """Returns whether [B, 1] an anchor has a positive and a negative."""
    has_positive = jnp.any(compared.positives, axis=1, keepdims=True)
    return has_positive & jnp.any(compared.negatives, axis=1, keepdims=True)


def _weights(compared: Comparisons, positives: Array, negatives: Array) -> Pairs:
    dtype = compared.distances.dtype
    return Pairs(positives.astype(dtype), negatives.astype(dtype))


def _where(chosen: Array, values: Array, otherwise: float) -> Array:
    return jnp.where(chosen, values, jnp.asarray(otherwise, values.dtype))


MINERS: dict[str, Callable[..., Miner]] = {
    "all": all_pairs,
    "distance_weighted": distance_weighted,
    "easy_positive": easy_positive,
    "hard": hard,
    "multi_similarity": multi_similarity,
    "nearest": nearest,
    "semi_hard": semi_hard,
}
KNOWN = tuple(sorted(MINERS))
