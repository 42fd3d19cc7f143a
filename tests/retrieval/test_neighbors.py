"""Lists of neighbours, against a sort of all distances in float64."""

import numpy as np
import pytest

from dcjax.core.errors import InputError
from dcjax.retrieval import neighbors
from dcjax.retrieval.neighbors import Gallery


def _sorted_distances(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    squared = np.sum((gallery.astype(np.float64) - query) ** 2, axis=1)
    order = np.argsort(squared, kind="stable")
    return order, np.sqrt(squared[order])


def _embeddings(num: int, dim: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(num, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_neighbors_equal_a_sort_of_all_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_DISTANCES_PER_BLOCK", 7 * 900)  # 7 queries at a time
    queries, gallery = _embeddings(30, 24, seed=0), _embeddings(900, 24, seed=1)
    rows, distances = Gallery(gallery).nearest(queries, 10)
    for query, found, far in zip(queries, rows, distances, strict=True):
        order, expected = _sorted_distances(query, gallery)
        np.testing.assert_array_equal(found, order[:10])
        np.testing.assert_array_equal(far, expected[:10])


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_duplicates_and_near_ties_are_ordered_as_in_float64(scale: float) -> None:
    # 400 images within the rounding error of float32 of one another, and many exact duplicates.
    rng = np.random.default_rng(2)
    center = rng.normal(size=(1, 16))
    gallery = np.float32(scale * (center + 1e-7 * rng.integers(-2, 3, (400, 16))))
    rows, distances = Gallery(gallery).nearest(gallery[:20], 12, self_rows=np.arange(20))
    for i in range(20):
        order, expected = _sorted_distances(gallery[i], gallery)
        kept = order != i
        np.testing.assert_array_equal(rows[i], order[kept][:12])
        np.testing.assert_array_equal(distances[i], expected[kept][:12])


def test_the_query_its_class_and_images_that_are_not_allowed_are_left_out() -> None:
    gallery, labels = _embeddings(200, 8, seed=3), np.arange(200) % 5 * 10
    allowed = np.random.default_rng(4).random(200) < 0.7
    own = np.arange(0, 40, 2)
    rows, _ = Gallery(gallery, labels).nearest(
        gallery[own], 6, self_rows=own, other_than=labels[own], allowed=allowed
    )
    for row, found in zip(own, rows, strict=True):
        order, _ = _sorted_distances(gallery[row], gallery)
        kept = allowed[order] & (labels[order] != labels[row])
        np.testing.assert_array_equal(found, order[kept][:6])
    # A label that the gallery lacks leaves out nothing.
    rows, _ = Gallery(gallery, labels).nearest(gallery[:3], 1, other_than=np.array([5, 999, -1]))
    np.testing.assert_array_equal(rows[:, 0], [0, 1, 2])


def test_farthest_distances_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_DISTANCES_PER_BLOCK", 7 * 200)  # 7 queries at a time
    queries, gallery = _embeddings(30, 8, seed=6), 3 * _embeddings(200, 8, seed=7)
    expected = [_sorted_distances(query, gallery)[1][-1] for query in queries]
    np.testing.assert_allclose(Gallery(gallery).farthest(queries), expected, rtol=1e-6)


def test_places_without_a_neighbor_are_minus_one_and_infinitely_far() -> None:
    gallery = np.float32([[0, 1], [1, 0], [0.6, 0.8]])
    rows, distances = Gallery(gallery).nearest(gallery[:1], 5, self_rows=np.array([0]))
    assert rows.tolist() == [[2, 1, -1]]  # at most as many as the gallery has
    assert distances[0, 2] == np.inf
    rows, _ = Gallery(gallery).nearest(gallery, 2, allowed=np.array([False, False, False]))
    assert (rows == -1).all()


def test_wrong_arguments_are_refused() -> None:
    gallery = Gallery(_embeddings(4, 3, seed=5))
    with pytest.raises(InputError, match="queries must be floating-point numbers of shape"):
        gallery.nearest(np.zeros((1, 2), np.float32), 1)
    with pytest.raises(InputError, match="must be finite"):
        gallery.nearest(np.full((1, 3), np.nan, np.float32), 1)
    with pytest.raises(InputError, match="Require k, a whole number"):
        gallery.nearest(np.zeros((1, 3), np.float32), 0)
    with pytest.raises(InputError, match="gallery must be finite"):
        Gallery(np.float32([[np.inf]]))
