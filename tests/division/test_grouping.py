"""Grouping of images at random and by super-class."""

import numpy as np
import pytest

from dcjax.division import grouping

# Four super-classes of 2, 1, 3 and 2 images, unordered. Their middles lie at 1, 2.5, 4.5 and 7
# of 8 images: t = 0.125, 0.3125, 0.5625, 0.875.
SUPER_CLASSES = np.array([2, 0, 3, 2, 1, 0, 3, 2])


@pytest.mark.parametrize(
    ("num_clusters", "expected"),
    [
        (1, [0, 0, 0, 0]),
        (2, [0, 0, 1, 1]),
        (3, [0, 0, 1, 2]),  # 0.375, 0.9375, 1.6875, 2.625
        (4, [0, 1, 2, 3]),  # 0.5, 1.25, 2.25, 3.5
        (8, [1, 2, 4, 7]),  # 1, 2.5, 4.5, 7
    ],
)
def test_super_class_belongs_to_the_cluster_of_its_middle(num_clusters, expected):
    clusters = grouping.group_by_super_class(SUPER_CLASSES, num_clusters)
    np.testing.assert_array_equal(clusters, np.array(expected)[SUPER_CLASSES])
    assert clusters.dtype == np.int32


@pytest.mark.parametrize("num_clusters", range(1, 9))
def test_bisecting_super_classes_equals_grouping_into_twice_the_clusters(num_clusters):
    rng = np.random.default_rng(num_clusters)
    super_classes = rng.permutation(np.repeat(np.arange(20), rng.integers(0, 30, 20)))
    clusters = grouping.group_by_super_class(super_classes, num_clusters)
    halves = grouping.group_by_super_class(super_classes, 2 * num_clusters)
    np.testing.assert_array_equal(halves // 2, clusters)
    assert 0 <= clusters.min() <= clusters.max() < num_clusters
    assert np.all(np.diff(clusters[np.argsort(super_classes)]) >= 0)


@pytest.mark.parametrize(("num_images", "num_clusters"), [(40, 2), (41, 3), (103, 4)])
def test_random_groups_differ_in_size_by_at_most_one(num_images, num_clusters):
    clusters = grouping.random_partition(seed=0, period=0)(
        np.arange(num_images), num_clusters, 0, 0
    )
    sizes = np.bincount(clusters, minlength=num_clusters)
    assert len(sizes) == num_clusters
    assert sizes.max() - sizes.min() <= 1
    assert clusters.dtype == np.int32


def test_random_groups_are_independent_and_reproducible():
    def draw(seed: int = 0, period: int = 0, which: int = 0, trial: int = 0) -> np.ndarray:
        return grouping.random_partition(seed=seed, period=period)(
            np.arange(16000), 4, which, trial
        )

    first = draw()
    np.testing.assert_array_equal(draw(), first)
    others = [draw(**{name: 1}) for name in ("seed", "period", "which", "trial")]
    for other in (*others, np.repeat(np.arange(4), 4000)):
        both = np.bincount(4 * first + other, minlength=16)
        # Each pair of clusters shares 1000 images; 5 of the standard deviations of 27.4.
        assert np.abs(both - 1000).max() < 137


@pytest.mark.parametrize("seed", [3, 6])
def test_random_grouping_is_retried_until_every_cluster_is_trainable(seed):
    labels = np.repeat(np.arange(5), 4)
    rows, partition = np.arange(20), grouping.random_partition(seed=seed, period=0)

    def slowly_trainable(cluster: np.ndarray) -> bool:
        pairs = [(c, k) for c in range(5) for k in range(3)]
        enough = [k for c, k in pairs if np.sum((labels == c) & (cluster == k)) >= 2]
        return all(enough.count(k) >= 2 for k in range(3))

    trials = [partition(rows, 3, 7, trial) for trial in range(8)]
    good = [slowly_trainable(cluster) for cluster in trials]
    assert not good[0]
    assert any(good)
    clusters = grouping.group(partition, labels, 8, rows, 3, 7)
    np.testing.assert_array_equal(clusters, trials[good.index(True)])
    last = grouping.group(partition, labels, 1, rows, 3, 7)
    np.testing.assert_array_equal(last, trials[0])


def test_clusters_of_super_classes_must_be_trainable():
    # Super-classes of 4, 2, 2 and 4 classes of two images: middles at 1/6, 5/12, 7/12 and 5/6.
    labels = np.repeat(np.arange(12), 2)
    super_classes = np.repeat([0, 1, 2, 3], [8, 4, 4, 8])

    def check(max_clusters: int, smaller: list[int]) -> None:
        grouping.check(labels, super_classes, max_clusters=max_clusters, smaller=smaller)

    for num_clusters in (1, 2, 3, 4):
        check(num_clusters, [])
    with pytest.raises(
        ValueError, match=r"=5 made of 4 super-classes 2 would .*division.max_clusters=4 o"
    ):
        check(5, [4, 3, 2])
    with pytest.raises(
        ValueError, match=r"=6 made of .* choose division.max_clusters=4 or other super-cl"
    ):
        check(6, [5, 4, 3, 2])
    with pytest.raises(ValueError, match="1 super-classes 2 would lack them; choose other super"):
        grouping.check(labels, np.zeros_like(labels), max_clusters=3, smaller=[2])


def test_cluster_of_super_classes_needs_two_classes():
    labels = np.repeat(np.arange(4), 2)
    super_classes = np.repeat([0, 1, 2], [2, 2, 4])  # middles at 1/8, 3/8, 3/4
    grouping.check(labels, super_classes, max_clusters=2, smaller=[])
    with pytest.raises(
        ValueError, match=r"of division.max_clusters=2 .*2 super-classes 1 would lack the"
    ):
        grouping.check(labels, np.repeat([0, 1], [2, 6]), max_clusters=2, smaller=[])
