"""What clusters hold, against plain loops over all pairs."""

import itertools

import numpy as np
import pytest

from dcjax.analysis import clusters


def _division(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(9, size=80) * 2, generator.integers(-1, 4, size=80)


def test_counts_and_separated_pairs_equal_plain_loops() -> None:
    labels, cluster = _division()
    counts = clusters.count(labels, cluster)
    for label, number, images in zip(*counts, strict=True):
        assert images == np.sum((labels == label) & (cluster == number))
    assert counts.images.sum() == 80
    expected = [len(np.unique(labels[cluster == k])) for k in range(5)]
    assert clusters.num_classes(counts, 5).tolist() == expected
    pairs = [(i, j) for i, j in itertools.combinations(range(80), 2) if labels[i] == labels[j]]
    apart = [cluster[i] != cluster[j] or cluster[i] < 0 for i, j in pairs]
    assert clusters.share_separated(counts) == pytest.approx(np.mean(apart))


def test_share_of_no_pairs_is_0() -> None:
    assert clusters.share_separated(clusters.count(np.arange(3), np.zeros(3, int))) == 0


def test_classes_that_clusters_divide_most_evenly_come_first() -> None:
    labels = np.repeat([10, 20, 30, 40], [8, 8, 4, 6])
    cluster = np.array([0] * 6 + [1] * 2 + [0] * 4 + [2] * 4 + [1] * 4 + [0] * 3 + [1] * 2 + [-1])
    counts = clusters.count(labels, cluster)
    assert clusters.classes_with_modes(counts, 9).tolist() == [20, 40, 10]
    assert clusters.classes_with_modes(counts, 1).tolist() == [20]
    alone = clusters.count(labels, np.zeros(len(labels), int))
    assert not len(clusters.classes_with_modes(alone, 9))
    assert not len(clusters.classes_with_modes(clusters.count(labels, np.full(26, -1)), 9))


def test_a_sample_has_as_many_images_of_each_cluster_as_it_can() -> None:
    cluster = np.repeat([-1, 0, 1, 2], [50, 100, 3, 60]).astype(np.int32)
    rows = clusters.sample(cluster, 30, np.random.default_rng(0))
    assert np.bincount(cluster[rows]).tolist() == [10, 3, 10]
    assert len(np.unique(rows)) == len(rows)
    assert np.array_equal(rows, clusters.sample(cluster, 30, np.random.default_rng(0)))


def test_negative_distances_equal_plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "_ROWS_PER_BLOCK", 7)
    labels, cluster = _division(1)
    labels, cluster = labels[cluster >= 0], cluster[cluster >= 0]
    embeddings = np.random.default_rng(2).normal(size=(len(labels), 5)).astype(np.float32)
    # Each cluster is k + 1 times as large as what is sampled of it.
    sizes = np.bincount(cluster, minlength=5) * np.arange(1, 6)
    within: list[list[float]] = [[] for _ in range(5)]
    weighted, weights = [], []
    for i, j in itertools.permutations(range(len(labels)), 2):
        if labels[i] != labels[j]:
            distance = float(np.linalg.norm(embeddings[i] - embeddings[j]))
            weights.append((cluster[i] + 1) * (cluster[j] + 1))
            weighted.append(weights[-1] * distance)
            if cluster[i] == cluster[j]:
                within[cluster[i]].append(distance)
    expected = np.mean([np.mean(x) for x in within if x]), np.sum(weighted) / np.sum(weights)
    actual = clusters.negative_distances(embeddings, labels, cluster, sizes)
    assert actual == pytest.approx(expected, rel=1e-5)


def test_there_are_no_negatives_of_one_class() -> None:
    found = clusters.negative_distances(
        np.ones((3, 2), np.float32), np.zeros(3), np.zeros(3, int), np.array([3])
    )
    assert np.isnan(found).all()


def test_nearest_images_to_centers_are_sorted_and_may_be_few() -> None:
    embeddings = np.float32([[0, 0], [4, 0], [2, 1], [2.2, 0], [9, 9]])
    cluster = np.array([0, 0, 0, 0, 2])
    nearest = clusters.nearest_to_centers(embeddings, cluster, 3, 2)
    assert [rows.tolist() for rows in nearest] == [[3, 2], [], [4]]
