"""Maps and the samples that they show."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from dcjax.analysis import maps


def _clouds(num_classes: int, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes), per_class)
    centers = 4 * generator.normal(size=(num_classes, 10))
    points = centers[labels] + generator.normal(size=(len(labels), 10))
    return points.astype(np.float32), labels


def test_pca_is_that_of_scikit_learn_up_to_signs() -> None:
    points, _ = _clouds(3, 20)
    actual, expected = maps.pca(points), PCA(2).fit_transform(points.astype(np.float64))
    for i in range(2):
        sign = np.sign(actual[0, i] * expected[0, i])
        np.testing.assert_allclose(actual[:, i], sign * expected[:, i], atol=1e-6)


def test_tsne_is_repeatable_and_keeps_classes_together() -> None:
    points, labels = _clouds(3, 15)
    actual = maps.tsne(points)
    assert actual is not None
    np.testing.assert_array_equal(actual, maps.tsne(points))
    distances = np.linalg.norm(actual[:, None] - actual, axis=2)
    np.fill_diagonal(distances, np.inf)
    assert np.mean(labels[distances.argmin(axis=1)] == labels) == 1


def test_tsne_of_a_few_points_is_none_or_a_map() -> None:
    points, _ = _clouds(2, 5)
    assert maps.tsne(points[:4]) is None
    assert maps.tsne(points[:5]) is not None
    assert maps.tsne(np.ones((6, 3), np.float32)) is not None


def test_a_sample_is_of_whole_classes_where_there_are_many() -> None:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(300), 7))
    rows = maps.sample_classes(labels, 200, np.random.default_rng(2))
    assert len(rows) == 200
    counts = np.bincount(labels[rows], minlength=300)
    assert np.sum(counts == 7) == 28
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(maps.sample_classes(labels, 2100, None), np.arange(2100))


def test_a_sample_has_all_of_a_few_large_classes() -> None:
    labels = np.repeat([0, 1], [5000, 400])
    rows = maps.sample_classes(labels, 200, np.random.default_rng(3))
    assert np.bincount(labels[rows]).tolist() == [100, 100]


def test_pairs_are_of_one_class_and_of_two_and_equally_frequent() -> None:
    labels = np.array([5, 3, 3, 8, 5, 3])
    within, between = maps.sample_pairs(labels, 6000, np.random.default_rng(4))
    assert len(within) == 6000
    assert (labels[within[:, 0]] == labels[within[:, 1]]).all()
    assert (within[:, 0] != within[:, 1]).all()
    found, counts = np.unique(within, axis=0, return_counts=True)
    assert len(found) == 2 + 6  # ordered pairs of class 5 and of class 3
    assert counts.min() > 0.8 * 6000 / 10
    assert (labels[between[:, 0]] != labels[between[:, 1]]).all()
    assert len(between) > 3000


def test_there_are_no_pairs_of_single_images_or_of_one_class() -> None:
    generator = np.random.default_rng(5)
    within, between = maps.sample_pairs(np.arange(4), 10, generator)
    assert within.shape == (0, 2)
    within, between = maps.sample_pairs(np.zeros(4, int), 10, generator)
    assert between.shape == (0, 2)
    points = np.float32([[0, 0], [3, 4]])
    assert maps.distances(points, np.array([[0, 1]])).tolist() == [5]


@pytest.mark.parametrize("size", [1, 2])
def test_pca_of_the_fewest_points_is_finite(size: int) -> None:
    assert np.isfinite(maps.pca(np.eye(3, dtype=np.float32)[:size])).all()
