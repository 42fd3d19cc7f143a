"""Soft-max losses over a batch: N-pairs (P21 Table VI) and supervised contrastive."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dcjax.core.ranges import SMALLEST, require_range
from dcjax.losses.loss import Loss, Output, Params, comparing, mean_distances
from dcjax.losses.pairs import Comparisons


class NPairsOptions(NamedTuple):
    """Options of the N-pairs loss.

    Attributes:
      alpha: scale of the similarities; its start where it is learned.
      learn_alpha: whether alpha is trained.
    """

    alpha: float
    learn_alpha: bool


class SupervisedContrastiveOptions(NamedTuple):
    """Options of the supervised contrastive loss.

    Attributes:
      temperature: what similarities are divided by.
    """

    temperature: float


def multi_positive_softmax(logits: Array, positives: Array, negatives: Array) -> Array:
    """Returns the cross-entropy to the mean over an anchor's positives, a scalar.

    L = mean_i ( log sum_j exp(x_ij) - mean_{p in P_i} x_ip ) over the anchors with a positive, j
    running over all positives and negatives of the anchor. This is the N-pairs loss of P21's code
    (after Sohn 2016, eq. 6, for any number of positives) and L_out of Khosla et al. 2020, eq. 2.

    Args:
      logits: x[B, R], scaled similarities.
      positives: bool [B, R].
      negatives: bool [B, R].
    """
    count = jnp.sum(positives, axis=1)
    # Alone in its class an anchor has no term; its own logit keeps the row finite.
    among = positives | negatives | (count == 0)[:, None]
    log_sum = jax.nn.logsumexp(logits, axis=1, where=among)
    mean = jnp.sum(logits, axis=1, where=positives) / jnp.maximum(count, 1)
    rows = jnp.where(count > 0, log_sum - mean, 0)
    return jnp.sum(rows) / jnp.maximum(jnp.sum(count > 0), 1)


def _create_n_pairs(num_classes: int, embedding_dim: int, options: NPairsOptions) -> Loss:
    require_range("alpha", options.alpha, SMALLEST)

    def init(key: Array) -> Params:
        del key  # alpha starts as told
        return {"alpha": jnp.asarray(options.alpha, float)} if options.learn_alpha else {}

    def compute(params: Params, compared: Comparisons, labels: Array, key: Array) -> Output:
        alpha = params.get("alpha", jnp.asarray(options.alpha, compared.similarities.dtype))
        return _softmax(compared, alpha, {"alpha": alpha})

    return comparing(compute, init)


def _create_supervised_contrastive(
    num_classes: int, embedding_dim: int, options: SupervisedContrastiveOptions
) -> Loss:
    require_range("temperature", options.temperature, SMALLEST)

    def compute(params: Params, compared: Comparisons, labels: Array, key: Array) -> Output:
        return _softmax(compared, 1 / options.temperature, {})

    return comparing(compute)


def _softmax(compared: Comparisons, scale: float | Array, stats: dict[str, Array]) -> Output:
    loss = multi_positive_softmax(
        scale * compared.similarities, compared.positives, compared.negatives
    )
    return loss, mean_distances(compared) | stats


LOSSES: dict[str, Any] = {
    "n_pairs": (NPairsOptions, _create_n_pairs),
    "supervised_contrastive": (SupervisedContrastiveOptions, _create_supervised_contrastive),
}
