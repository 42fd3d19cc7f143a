"""Subspaces: known answers."""

import numpy as np
import pytest

from dcjax.analysis import subspaces


def test_cosines_of_masks() -> None:
    masks = np.float32([[1, 1, 0, 0], [0, 2, 2, 0], [0, 0, 0, 3], [0, 0, 0, 0]])
    expected = [[1, 0.5, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(subspaces.cosines(masks), expected, atol=1e-12)


@pytest.mark.parametrize("num_dims", [1, 3, 8])
def test_equal_variance_in_d_directions_has_effective_dimension_d(num_dims: int) -> None:
    # Both ends of d axes, turned at random in 8 dimensions, away from the origin.
    turned, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))
    axes = turned[:num_dims]
    points = np.concatenate([axes, -axes]).astype(np.float32) + np.float32(0.3)
    assert subspaces.effective_dimension(points) == pytest.approx(num_dims, rel=1e-4)


def test_unequal_variances_count_by_their_entropy() -> None:
    shares = np.array([0.7, 0.2, 0.1])
    axes = np.diag(np.sqrt(shares))
    points = np.concatenate([axes, -axes]).astype(np.float32)
    expected = np.exp(-np.sum(shares * np.log(shares)))
    assert subspaces.effective_dimension(points) == pytest.approx(expected, rel=1e-5)


def test_equal_embeddings_use_no_dimension() -> None:
    assert subspaces.effective_dimension(np.full((5, 3), 0.1, np.float32)) == 0
