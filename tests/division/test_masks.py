"""Masks of clusters: splitting, application to embeddings, orthogonality."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcjax.division import masks

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "reference.json").read_text())


def _cosine_masks() -> jax.Array:
    k, j = np.ogrid[:3, :6]
    return jnp.asarray(np.cos(1.1 * k + 0.9 * j), jnp.float32)


def _embedding() -> jax.Array:
    raw = np.sin(0.7 * np.arange(6))
    return jnp.asarray(raw / np.linalg.norm(raw), jnp.float32)


def test_only_the_first_mask_exists_at_the_start() -> None:
    np.testing.assert_array_equal(masks.initial(4, 3), [[1, 1, 1], [0] * 3, [0] * 3, [0] * 3])


@pytest.mark.parametrize("kind", ["learned", "none"])
def test_child_masks_copy_their_parent_and_unused_rows_are_zero(kind: str) -> None:
    before = jnp.full((8, 6), 7.0).at[:2].set([[1.0], [-2.0]])
    after = masks.split(before, 2, kind)
    np.testing.assert_array_equal(after[:4], before[jnp.array([0, 0, 1, 1])])
    np.testing.assert_array_equal(after[4:], 0)


def test_fixed_children_split_an_odd_support_into_floor_and_ceiling() -> None:
    after = masks.split(masks.initial(4, 5), 1, "fixed")
    np.testing.assert_array_equal(after[:2], [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]])


def test_fixed_masks_are_slices_whether_split_stepwise_or_directly() -> None:
    start, slices = masks.initial(8, 64), np.kron(np.eye(8), np.ones(8))
    stepwise = start
    for num_clusters in (1, 2, 4):
        stepwise = masks.split(stepwise, num_clusters, "fixed")
    np.testing.assert_array_equal(stepwise, slices)
    np.testing.assert_array_equal(masks.inherit(start, jnp.zeros(8, int), "fixed"), slices)


@pytest.mark.parametrize("kind", masks.KINDS)
def test_division_without_a_split_changes_no_mask(kind: str) -> None:
    before = masks.split(masks.initial(4, 6), 1, kind)
    np.testing.assert_array_equal(masks.inherit(before, jnp.array([0, 1, -1, -1]), kind), before)


@pytest.mark.parametrize("kind", masks.KINDS)
def test_split_accepts_a_traced_number_of_clusters(kind: str) -> None:
    before = masks.split(masks.initial(8, 10), 1, kind)
    traced = jax.jit(masks.split, static_argnums=2)(before, 2, kind)
    np.testing.assert_array_equal(traced, masks.split(before, 2, kind))


def test_masked_and_summed_embeddings_agree_with_golden_numbers() -> None:
    e, m = _embedding(), _cosine_masks()
    for mask, name in [
        (m[1], "masked_embedding_row0_mask1"),
        (masks.combine(m), "summed_mask_embedding_row0"),
        (masks.combine(m, "sum_l1"), "summed_l1mask_embedding_row0"),
    ]:
        np.testing.assert_allclose(masks.apply(e, mask), GOLDEN[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["sum", "sum_l1"])
def test_unused_clusters_add_nothing_to_the_sum(kind: str) -> None:
    m = _cosine_masks()
    padded = jnp.concatenate([m, jnp.zeros((5, 6))])
    np.testing.assert_array_equal(masks.combine(padded, kind), masks.combine(m, kind))
    np.testing.assert_array_equal(masks.combine(padded, "none"), np.ones(6))


@pytest.mark.parametrize("kind", masks.COMBINATIONS)
def test_subspaces_of_whole_embeddings_equal_those_of_unmasked_ones(kind: str) -> None:
    rng = np.random.default_rng(3)
    unmasked = jnp.asarray(rng.normal(size=(20, 8)), jnp.float32)
    values = jnp.asarray(rng.normal(size=(4, 8)), jnp.float32).at[:, 2].set(-1.0)  # one masked out
    whole = masks.apply(unmasked, masks.combine(values, kind))
    for cluster in range(4):
        expected = masks.apply(unmasked, values[cluster])
        found = masks.to_subspace(whole, values, cluster, kind)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("num_rows", [3, 8])
def test_orthogonality_agrees_with_golden_value_and_gradient(num_rows: int) -> None:
    # Rows from num_clusters on hold garbage: they must neither count nor get a gradient.
    m = jnp.concatenate([_cosine_masks(), jnp.full((num_rows - 3, 6), 9.0)])
    value, grad = jax.jit(jax.value_and_grad(masks.orthogonality))(m, 3)
    np.testing.assert_allclose(value, GOLDEN["ortho"]["value"], rtol=1e-5)
    np.testing.assert_allclose(grad[:3], GOLDEN["ortho"]["grad"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(grad[3:], 0)


def test_identical_siblings_get_no_orthogonality_gradient() -> None:
    m = masks.split(jnp.zeros((4, 6)).at[0].set(_embedding()), 1, "learned")
    value, grad = jax.value_and_grad(masks.orthogonality)(m, 2)
    np.testing.assert_allclose(value, 1.0, rtol=1e-6)
    np.testing.assert_allclose(grad, 0, atol=1e-7)


def test_one_cluster_has_no_orthogonality_loss() -> None:
    value, grad = jax.value_and_grad(masks.orthogonality)(masks.initial(4, 6), 1)
    assert value == 0
    np.testing.assert_array_equal(grad, 0)


def test_dead_masks_and_zero_embeddings_have_finite_values_and_gradients() -> None:
    def loss(embeddings: jax.Array, m: jax.Array) -> jax.Array:
        embedded = masks.apply(embeddings[:, None], m) + masks.apply(embeddings, masks.combine(m))
        return embedded.sum() + masks.orthogonality(m, 2)

    dead = jnp.full((2, 6), -1.0)
    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    for m in (dead, dead.at[0].set(1.0), jnp.zeros((2, 6))):
        value, grads = gradient(jnp.zeros((2, 6)), m)
        assert np.isfinite(value)
        # A gradient of 1e12 (1 / the smallest norm) is finite, but would ruin training.
        assert all(np.all(np.abs(g) < 1e3) for g in grads)


def test_dead_mask_gives_no_nan_inside_its_gradient() -> None:
    m = jnp.stack([_embedding(), jnp.full(6, -1.0)])
    with jax.debug_nans(True):
        np.testing.assert_array_equal(jax.grad(masks.orthogonality)(m, 2), 0)


def test_low_precision_is_computed_in_float32_and_float64_is_kept() -> None:
    assert masks.apply(jnp.ones(4, jnp.bfloat16), jnp.ones(4)).dtype == jnp.float32
    with jax.enable_x64(True):
        m = jnp.asarray(_cosine_masks(), jnp.float64)
        assert masks.l2_normalize(m).dtype == jnp.float64
        assert masks.orthogonality(m, 3).dtype == jnp.float64
        assert masks.split(m, 1, "fixed").dtype == jnp.float64


def test_errors_name_the_value_and_the_alternatives() -> None:
    m = masks.initial(4, 6)
    with pytest.raises(ValueError, match=r"'soft'.*learned, fixed, none"):
        masks.split(m, 1, "soft")
    with pytest.raises(ValueError, match=r"'mean'.*sum, sum_l1, none"):
        masks.combine(m, "mean")
    with pytest.raises(ValueError, match="num_clusters=4"):
        masks.split(m, 4, "learned")
