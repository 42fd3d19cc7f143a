"""Pairs are processed a few columns at a time, and none is skipped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcjax.losses import pairs
from dcjax.losses.reductions import Rows, sum_over_positives

POSITIVES = np.random.default_rng(0).random((6, 9)) < 0.4
POSITIVES[2] = False


@pytest.mark.parametrize("number", [0, 1, 4, 9])
def test_smallest_values_have_the_order_of_a_stable_sort(number: int) -> None:
    values = np.random.default_rng(1).integers(0, 4, (5, 9)).astype(np.float32)
    actual = jax.jit(pairs.smallest)(values, number)
    expected = np.argsort(values, axis=1, kind="stable")
    np.testing.assert_array_equal(actual[:, :number], expected[:, :number])


def test_positives_are_folded_in_order() -> None:
    def note(
        carried: tuple[jax.Array, jax.Array], is_next: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        turn, turns = carried
        return turn + 1, jnp.where(is_next, turn, turns)

    start = jnp.asarray(1), jnp.zeros(POSITIVES.shape, int)
    turn, turns = pairs.fold_positives(note, start, jnp.asarray(POSITIVES))
    np.testing.assert_array_equal(turns, np.cumsum(POSITIVES, axis=1) * POSITIVES)
    assert turn == 1 + POSITIVES.sum(axis=1).max()


def test_sum_over_positives_has_the_gradient_of_all_pairs() -> None:
    def term(chosen: Rows, rows: Rows, is_chosen: jax.Array) -> jax.Array:
        others = jnp.where(is_chosen, 0, jnp.exp(rows[0] - chosen[0]))
        return jnp.log1p(jnp.sum(others * rows[1], axis=1)) * chosen[1][:, 0]

    def of_all_pairs(rows: Rows) -> jax.Array:
        x, weights = rows
        others = jnp.where(jnp.eye(x.shape[1], dtype=bool), 0, jnp.exp(x[:, None] - x[:, :, None]))
        terms = jnp.log1p(jnp.sum(others * weights[:, None], axis=2)) * weights
        return jnp.sum(terms, axis=1, where=POSITIVES)

    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        rows = tuple(jnp.asarray(rng.random(POSITIVES.shape)) for _ in range(2))
        actual, pull = jax.vjp(lambda rows: sum_over_positives(term, rows, POSITIVES), rows)
        expected, expected_pull = jax.vjp(of_all_pairs, rows)
        cotangent = jnp.asarray(rng.random(len(actual)))
        np.testing.assert_allclose(sum_over_positives(term, rows, POSITIVES), expected, rtol=1e-12)
        np.testing.assert_allclose(actual, expected, rtol=1e-12)
        for one, other in zip(pull(cotangent)[0], expected_pull(cotangent)[0], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15)
