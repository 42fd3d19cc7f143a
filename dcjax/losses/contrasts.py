"""Soft-max losses over a batch: N-pairs (P21 Table VI) and supervised contrastive."""

import jax
import jax.numpy as jnp
from jax import Array

from dcjax.core.ranges import POSITIVE, require_range
from dcjax.losses.loss import Loss, Output, Params, from_comparisons, mean_distances
from dcjax.losses.pairs import Comparisons


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


def n_pairs(
    num_classes: int, embedding_dim: int, *, alpha: float = 1.0, learn_alpha: bool = True
) -> Loss:
    """Creates the N-pairs loss of P21's code (after Sohn 2016, eq. 6; P21 Table VI).

    L is that of `multi_positive_softmax`, of similarities times alpha.

    Args:
      num_classes: number of training classes.
      embedding_dim: D, size of the embedding.
      alpha: scale of the similarities, its start where it is learned; 1 in P21's code.
      learn_alpha: whether alpha is trained, as in P21's code.
    """
    require_range("alpha", alpha, *POSITIVE)

    def init(key: Array) -> Params:
        del key  # alpha starts at its given value
        return {"alpha": jnp.asarray(alpha, float)} if learn_alpha else {}

    def compute(params: Params, compared: Comparisons, labels: Array, key: Array) -> Output:
        scale = params.get("alpha", jnp.asarray(alpha, compared.similarities.dtype))
        return _softmax(compared, scale, {"alpha": scale})

    return from_comparisons(compute, init)


def supervised_contrastive(
    num_classes: int, embedding_dim: int, *, temperature: float = 0.1
) -> Loss:
    """Creates the supervised contrastive loss, L_out (Khosla et al. 2020, eq. 2).

    L is that of `multi_positive_softmax`, of similarities divided by the temperature.

    Args:
      num_classes: number of training classes.
      embedding_dim: D, size of the embedding.
      temperature: what similarities are divided by; 0.1 in the paper.
    """
    require_range("temperature", temperature, *POSITIVE)

    def compute(params: Params, compared: Comparisons, labels: Array, key: Array) -> Output:
        return _softmax(compared, 1 / temperature, {})

    return from_comparisons(compute)


def _softmax(compared: Comparisons, scale: float | Array, stats: dict[str, Array]) -> Output:
    loss = multi_positive_softmax(
        scale * compared.similarities, compared.positives, compared.negatives
    )
    return loss, mean_distances(compared) | stats
