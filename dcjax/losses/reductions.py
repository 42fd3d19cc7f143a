"""Sums, means and roots that stay finite, gradients included."""

import jax
import jax.numpy as jnp
from jax import Array


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
