"""Sums, means and roots whose values and gradients stay finite."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from dcjax.losses.pairs import fold_positives

Rows = tuple[Array, ...]
Term = Callable[[Rows, Rows, Array], Array]


def weighted_mean(values: Array, weights: Array) -> Array:
    """Returns the mean of values with weights of the same shape; 0 without weights."""
    total = jnp.sum(weights)
    return jnp.sum(values * weights) / jnp.where(total > 0, total, 1)


def log_one_plus_sum_exp(logits: Array, weights: Array) -> Array:
    """Returns log(1 + sum_j w_ij exp(x_ij)) [B] of x[B, R] and weights w[B, R]."""
    logits = jnp.where(weights > 0, logits, -jnp.inf)
    largest = jax.lax.stop_gradient(jnp.maximum(jnp.max(logits, axis=1), 0))
    scaled = jnp.sum(weights * jnp.exp(logits - largest[:, None]), axis=1)
    return largest + jnp.log(jnp.exp(-largest) + scaled)


def square_root(x: Array) -> Array:
    """Returns sqrt(max(x, 0)), with gradient 0 where x is not positive."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def sum_over_positives(term: Term, rows: Rows, positives: Array) -> Array:
    """Returns the sum [B] of each anchor's terms, one for each of its positives.

    Positives are processed one after the other, with their gradients: B R elements at a time, not
    B R^2.

    Args:
      term: function (columns [B, 1] of each of the rows, rows, bool [B, R], where the columns
        are) -> [B], the terms of the positives there; each depends on its own row only.
      rows: floats [B, R].
      positives: bool [B, R].
    """
    none = jnp.zeros(len(positives), rows[0].dtype)
    return fold_positives(
        lambda total, is_positive: total + _terms(term, rows, is_positive), none, positives
    )


def _terms(term: Term, rows: Rows, is_positive: Array) -> Array:
    columns = tuple(jnp.sum(jnp.where(is_positive, x, 0), axis=1, keepdims=True) for x in rows)
    return jnp.where(jnp.any(is_positive, axis=1), term(columns, rows, is_positive), 0)


def _sum_and_gradients(term: Term, rows: Rows, positives: Array) -> tuple[Array, Rows]:
    def add(carried: tuple[Array, Rows], is_positive: Array) -> tuple[Array, Rows]:
        total, gradients = carried
        terms, pull = jax.vjp(lambda rows: _terms(term, rows, is_positive), rows)
        (more,) = pull(jnp.ones_like(terms))
        return total + terms, jax.tree.map(jnp.add, gradients, more)

    start = jnp.zeros(len(positives), rows[0].dtype), jax.tree.map(jnp.zeros_like, rows)
    return fold_positives(add, start, positives)


def _scale_gradients(term: object, gradients: Rows, of_sums: Array) -> tuple[Rows, None]:
    return jax.tree.map(lambda x: x * of_sums[:, None], gradients), None


sum_over_positives.defvjp(_sum_and_gradients, _scale_gradients)
