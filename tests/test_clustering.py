"""Tests of dcjax.clustering."""

import math
from collections import Counter

import numpy as np
import pytest

from dcjax import clustering


def _blobs(num_blobs: int, size: int, dim: int = 16) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    blob = np.repeat(np.arange(num_blobs), size)
    centers = 20 * np.eye(num_blobs, dim)
    return centers[blob] + rng.normal(size=(len(blob), dim)), blob


def _plain_nmi(labels: list[int], clusters: list[int]) -> float:
    n = len(labels)

    def entropy(values: list) -> float:
        return -sum(c / n * math.log(c / n) for c in Counter(values).values())

    both = entropy(list(zip(labels, clusters, strict=True)))
    mutual = entropy(labels) + entropy(clusters) - both
    return 2 * mutual / (entropy(labels) + entropy(clusters))


def test_kmeans_finds_separated_blobs():
    x, blob = _blobs(4, 30)
    labels, centroids = clustering.kmeans(x, 4, seed=2)
    assert clustering.nmi(blob, labels) == pytest.approx(1.0)
    assert (labels.dtype, centroids.dtype) == (np.int32, np.float32)


def test_kmeans_goes_on_until_nothing_changes():
    x = np.random.default_rng(1).normal(size=(300, 5))
    labels, centroids = clustering.kmeans(x, 7, seed=0, num_iterations=300)
    distances = np.sum((x[:, None] - centroids[None]) ** 2, axis=2)
    np.testing.assert_array_equal(labels, np.argmin(distances, axis=1))
    means = [x[labels == k].mean(axis=0) for k in range(7)]
    np.testing.assert_allclose(centroids, means, atol=1e-5)


def test_kmeans_repeats_bit_for_bit():
    x = np.random.default_rng(0).normal(size=(3000, 32))
    labels, centroids = clustering.kmeans(x, 16, seed=5)
    for _ in range(3):
        again_labels, again_centroids = clustering.kmeans(x, 16, seed=5)
        assert again_labels.tobytes() == labels.tobytes()
        assert again_centroids.tobytes() == centroids.tobytes()


def test_kmeans_depends_on_the_seed():
    x = np.random.default_rng(0).normal(size=(200, 8))
    assert np.any(clustering.kmeans(x, 5, seed=0)[0] != clustering.kmeans(x, 5, seed=1)[0])


def test_kmeans_names_what_is_wrong():
    with pytest.raises(ValueError, match="k=4 and 3 points"):
        clustering.kmeans(np.zeros((3, 2)), 4, seed=0)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        clustering.kmeans(np.zeros(3), 1, seed=0)


def test_nmi_golden():
    labels, clusters = [0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 1, 1, 1, 2, 2, 2]
    assert clustering.nmi(labels, clusters) == pytest.approx(0.5588730382170324, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "clusters"),
    [([0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 1]), ([0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1])],
)
def test_nmi_divides_by_the_arithmetic_mean(labels, clusters):
    want = _plain_nmi(labels, clusters)
    assert clustering.nmi(np.array(labels), np.array(clusters)) == pytest.approx(want, abs=1e-12)
