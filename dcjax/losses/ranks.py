"""Smooth surrogates of retrieval scores: average precision and recall at k."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dcjax.core.errors import InputError
from dcjax.core.ranges import POSITIVE, require_range, require_whole
from dcjax.losses.loss import Loss, Output, Params, from_comparisons, mean_distances
from dcjax.losses.pairs import Comparisons
from dcjax.losses.reductions import Rows, sum_over_positives


def smooth_ap_loss(
    similarities: Array, positives: Array, negatives: Array, *, temperature: float
) -> Array:
    """Returns 1 - smooth average precision, a scalar; the formula is that of `smooth_ap`.

    Args:
      similarities: s[B, R].
      positives: bool [B, R].
      negatives: bool [B, R].
      temperature: tau.
    """

    def precision(positive: Rows, all_references: Rows, is_itself: Array) -> Array:
        (s_p, _, _), (s, is_positive, is_negative) = positive, all_references
        above = jnp.where(is_itself, 0, jax.nn.sigmoid((s - s_p) / temperature))
        rank_among_positives = 1 + jnp.sum(above * is_positive, axis=1)
        return rank_among_positives / (rank_among_positives + jnp.sum(above * is_negative, axis=1))

    sums = sum_over_positives(precision, _rows(similarities, positives, negatives), positives)
    return _one_minus_mean(sums / jnp.maximum(jnp.sum(positives, axis=1), 1), positives)


def recall_at_k_loss(
    similarities: Array,
    positives: Array,
    negatives: Array,
    *,
    ks: tuple[int, ...],
    rank_temperature: float,
    temperature: float,
) -> Array:
    """Returns 1 - smooth recall at k, averaged over ks, a scalar; the formula is in `recall_at_k`.

    Args:
      similarities: s[B, R].
      positives: bool [B, R].
      negatives: bool [B, R].
      ks: the k.
      rank_temperature: tau_1.
      temperature: tau_2.
    """
    k = jnp.asarray(ks, similarities.dtype)

    def recall(positive: Rows, all_references: Rows, is_itself: Array) -> Array:
        (s_p, _, _), (s, is_positive, is_negative) = positive, all_references
        above = jnp.where(is_itself, 0, jax.nn.sigmoid((s - s_p) / temperature))
        rank = 1 + jnp.sum(above * (is_positive + is_negative), axis=1, keepdims=True)
        is_within = jax.nn.sigmoid((k - rank) / rank_temperature)
        most = jnp.minimum(k, jnp.maximum(jnp.sum(is_positive, axis=1, keepdims=True), 1))
        return jnp.mean(is_within / most, axis=1)

    recalls = sum_over_positives(recall, _rows(similarities, positives, negatives), positives)
    return _one_minus_mean(recalls, positives)


def _rows(similarities: Array, positives: Array, negatives: Array) -> Rows:
    dtype = similarities.dtype
    return similarities, positives.astype(dtype), negatives.astype(dtype)


def _one_minus_mean(scores: Array, positives: Array) -> Array:
    """Returns 1 - mean of scores[B] over the anchors with a positive; 0 without any."""
    counts = jnp.any(positives, axis=1)
    return jnp.sum(jnp.where(counts, 1 - scores, 0)) / jnp.maximum(jnp.sum(counts), 1)


def smooth_ap(num_classes: int, embedding_dim: int, *, temperature: float = 0.01) -> Loss:
    """Creates smooth-AP (Brown et al. 2020, section 3).

    AP_i = mean_{p in P_i} (1 + sum_{q in P_i, q != p} g(s_iq - s_ip))
           / (1 + sum_{j in P_i + N_i, j != p} g(s_ij - s_ip)),  g(x) = 1 / (1 + exp(-x / tau));
    L = 1 - mean AP_i over the anchors with a positive.

    Args:
      num_classes: number of training classes.
      embedding_dim: D, size of the embedding.
      temperature: tau of the sigmoid of similarities that stands for a step; 0.01 in the paper.
    """
    require_range("temperature", temperature, *POSITIVE)

    def compute(params: Params, compared: Comparisons, labels: Array, key: Array) -> Output:
        loss = smooth_ap_loss(
            compared.similarities,
            compared.positives,
            compared.negatives,
            temperature=temperature,
        )
        return loss, mean_distances(compared)

    return from_comparisons(compute)


def recall_at_k(
    num_classes: int,
    embedding_dim: int,
    *,
    ks: Sequence[int] = (1, 2, 4, 8, 16),
    rank_temperature: float = 1.0,
    temperature: float = 0.01,
) -> Loss:
    """Creates the recall@k surrogate (Patel et al. 2022, section 3).

    recall_i(k) = sum_{p in P_i} g_1(k - r_ip) / min(k, |P_i|), with the smooth rank
    r_ip = 1 + sum_{j in P_i + N_i, j != p} g_2(s_ij - s_ip),  g_t(x) = 1 / (1 + exp(-x / tau_t));
    L = 1 - mean over ks and over the anchors with a positive.

    Args:
      num_classes: number of training classes.
      embedding_dim: D, size of the embedding.
      ks: the k whose recalls are averaged; the default values are the paper's, here and below.
      rank_temperature: tau_1, of the sigmoid of k - rank.
      temperature: tau_2, of the sigmoid of similarities.
    """
    require_range("rank_temperature", rank_temperature, *POSITIVE)
    require_range("temperature", temperature, *POSITIVE)
    given = tuple(ks) if np.iterable(ks) else ()
    if not given:
        raise InputError(f"Require ks of whole numbers from 1 on, got {ks}.")
    numbers = tuple(require_whole("every k of ks", k, 1) for k in given)

    def compute(params: Params, compared: Comparisons, labels: Array, key: Array) -> Output:
        loss = recall_at_k_loss(
            compared.similarities,
            compared.positives,
            compared.negatives,
            ks=numbers,
            rank_temperature=rank_temperature,
            temperature=temperature,
        )
        return loss, mean_distances(compared)

    return from_comparisons(compute)
