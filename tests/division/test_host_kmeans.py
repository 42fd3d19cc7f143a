"""K-means on the host against plain Lloyd iterations, and NMI."""

import math
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import threadpoolctl
from sklearn.cluster import KMeans

from dcjax.division import host_kmeans


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


def _embeddings(size: int, num_classes: int, dim: int, seed: int = 0) -> np.ndarray:
    """Returns points around overlapping class centres, like embeddings of unseen classes."""
    rng = np.random.default_rng(seed)
    scale = 1 / (1 + np.arange(dim) / 4)
    centers = scale * rng.normal(size=(num_classes, dim))
    x = centers[rng.integers(num_classes, size=size)] + 0.8 * scale * rng.normal(size=(size, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def _start(x: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    return x[np.random.default_rng(seed).choice(len(x), k, replace=False)]


def _inertia(x: np.ndarray, labels: np.ndarray, centroids: np.ndarray) -> float:
    return float(np.sum((x - centroids[labels]) ** 2, dtype=np.float64))


def _plain_lloyd(x: np.ndarray, start: np.ndarray, num_iterations: int) -> tuple:
    """Lloyd's algorithm that compares every point with every centroid in every iteration."""
    x, centroids = x.astype(np.float64), start.astype(np.float64)
    counted = None
    for step in range(num_iterations + 1):
        distances = _squared_distances(x, centroids)
        labels = np.argmin(distances, axis=1)
        if step == num_iterations or np.array_equal(counted, labels):
            break
        empty = np.setdiff1d(np.arange(len(start)), labels)
        labels[np.argsort(-distances.min(axis=1))[: len(empty)]] = empty
        centroids = np.stack([x[labels == k].mean(axis=0) for k in range(len(start))])
        counted = labels
    return labels, centroids


def _squared_distances(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return np.sum(x**2, axis=1)[:, None] - 2 * x @ centroids.T + np.sum(centroids**2, axis=1)


def test_kmeans_finds_separated_blobs():
    x, blob = _blobs(4, 30)
    labels, centroids = host_kmeans.kmeans(x, 4, seed=2)
    assert host_kmeans.nmi(blob, labels) == pytest.approx(1.0)
    assert (labels.dtype, centroids.dtype) == (np.int32, np.float32)


# Few and many points and clusters, also more than one block; with and without a
# point where the iterations end before nothing changes any more.
@pytest.mark.parametrize(
    ("size", "k", "dim", "num_iterations"),
    [
        (40, 3, 2, 50),
        (700, 1, 5, 20),
        (600, 2, 16, 50),
        (2000, 16, 64, 100),
        (2000, 16, 64, 3),
        (3000, 560, 32, 50),
        (3000, 560, 32, 2),
        (4500, 2100, 12, 40),
    ],
)
def test_lloyd_equals_plain_lloyd(size, k, dim, num_iterations):
    x = _embeddings(size, 4 * k, dim)
    start = _start(x, k)
    expected, expected_centroids = _plain_lloyd(x, start, num_iterations)
    labels, centroids = host_kmeans.lloyd(x, start, num_iterations=num_iterations)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_allclose(centroids, expected_centroids, atol=1e-5)


@pytest.mark.parametrize("cost_of_a_point", [-(10**9), 0, 10**9])
@pytest.mark.parametrize(("k", "dim"), [(12, 64), (500, 32)])
def test_both_pruning_methods_give_the_labels_of_plain_lloyd(cost_of_a_point, k, dim, monkeypatch):
    # Large cost of a point: bounds wherever they exclude any point. Negative cost: never bounds.
    monkeypatch.setattr(host_kmeans, "_COST_OF_A_POINT", cost_of_a_point)
    monkeypatch.setattr(host_kmeans, "_POINTS_PER_BLOCK", 100)
    monkeypatch.setattr(host_kmeans, "_CENTROIDS_PER_BLOCK", 64)
    x = _embeddings(2500, 4 * k, dim)
    start = _start(x, k)
    expected, _ = _plain_lloyd(x, start, 60)
    labels, _ = host_kmeans.lloyd(x, start, num_iterations=60)
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("k", [8, 60, 400])
def test_lloyd_equals_plain_lloyd_with_empty_clusters(k):
    x = _embeddings(1500, 4 * k, 8)
    start = _start(x, k)
    start[k // 2 :] *= 3  # farther from every point, all of length 1, than any other can be
    expected, expected_centroids = _plain_lloyd(x, start, 60)
    labels, centroids = host_kmeans.lloyd(x, start, num_iterations=60)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_allclose(centroids, expected_centroids, atol=1e-5)


@pytest.mark.parametrize("place", [0, 100])
def test_bounds_hold_in_spite_of_rounding(place):
    x = (place + np.random.default_rng(0).normal(size=(3000, 24))).astype(np.float32)
    centroids, origin = _start(x, 50), x.mean(axis=0)
    bounds = host_kmeans._create_search(x, origin, map)(None, host_kmeans._shift(centroids, origin))
    away = x[:, None].astype(np.float64) - centroids
    nearest, second = np.sort(np.linalg.norm(away, axis=2), axis=1)[:, :2].T
    assert np.all(bounds.nearest_lower <= nearest)
    assert np.all(nearest <= bounds.upper)
    assert np.all(bounds.lower <= second)
    np.testing.assert_allclose(bounds.lower, second, rtol=1e-5 if place == 0 else 1e-2)


@pytest.mark.parametrize("dim", [512, 4096])
def test_rounding_does_not_change_labels_far_from_zero(dim):
    # All points on one line, their extent a thousandth of their distance from zero.
    scale = 1 + 1e-3 * np.random.default_rng(0).normal(size=(300, 1))
    x = (scale * np.full(dim, 0.1)).astype(np.float32)
    labels, centroids = host_kmeans.lloyd(x, _start(x, 20), num_iterations=100)
    exact = _squared_distances(x.astype(np.float64), centroids.astype(np.float64))
    np.testing.assert_array_equal(labels, exact.argmin(axis=1))


@pytest.mark.parametrize("exponent", [-140, -110, -66, -40, 60, 110])
def test_scale_changes_neither_labels_nor_centroids(exponent):
    x = _embeddings(500, 40, 16)
    scaled = np.ldexp(x, exponent)
    # What float32 holds of the smallest ones, as numbers of another scale.
    labels, centroids = host_kmeans.kmeans(np.ldexp(scaled, -exponent), 20, seed=0)
    scaled_labels, scaled_centroids = host_kmeans.kmeans(scaled, 20, seed=0)
    np.testing.assert_array_equal(scaled_labels, labels)
    np.testing.assert_array_equal(scaled_centroids, np.ldexp(centroids, exponent))
    assert len(np.unique(labels)) == 20


def test_concurrent_kmeans_restore_the_blas_thread_limit():
    x = _embeddings(6000, 600, 64)
    before = [library["num_threads"] for library in threadpoolctl.threadpool_info()]
    # The run that starts first ends first: it must not lift the thread limit of the other.
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda n: host_kmeans.kmeans(x, 300, seed=0, num_iterations=n), [4, 30]))
    assert [library["num_threads"] for library in threadpoolctl.threadpool_info()] == before


@pytest.mark.parametrize(("k", "dim", "part"), [(16, 64, 0.75), (700, 32, 0.5)])
def test_most_distances_are_skipped(k, dim, part, monkeypatch):
    x = _embeddings(4000, 4 * k, dim)
    search, num_compared, rounds = host_kmeans._search_block, [], []
    assign = host_kmeans._assign

    def counting_search(x, squares, rounding, at):
        num_compared.append(len(x) * len(at.offset))
        return search(x, squares, rounding, at)

    def counting_assign(*args):
        rounds.append(1)
        return assign(*args)

    monkeypatch.setattr(host_kmeans, "_search_block", counting_search)
    monkeypatch.setattr(host_kmeans, "_assign", counting_assign)
    host_kmeans.lloyd(x, _start(x, k), num_iterations=100)
    assert sum(num_compared) < part * (len(rounds) + 1) * len(x) * k


def test_memory_holds_no_array_of_all_distances():
    x = _embeddings(20000, 8000, 4)
    start = _start(x, 5000)
    host_kmeans.kmeans(x[:10], 2, seed=0)
    tracemalloc.start()
    host_kmeans.lloyd(x, start, num_iterations=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # One block per thread and vectors as long as x; all distances would be 400 MB.
    threads = threadpoolctl.threadpool_info()[0]["num_threads"]
    assert peak < 16e6 + 12e6 * max(threads, 2)


@pytest.mark.parametrize(("k", "dim"), [(8, 32), (300, 16)])
def test_lloyd_inertia_is_as_low_as_scikit_learns(k, dim):
    x = _embeddings(2000, 4 * k, dim)
    start = _start(x, k)
    labels, centroids = host_kmeans.lloyd(x, start, num_iterations=100)
    theirs = KMeans(k, init=start, n_init=1, max_iter=100, tol=0.0).fit(x)
    assert _inertia(x, labels, centroids) <= theirs.inertia_ * (1 + 1e-5)


def test_kmeans_iterates_until_convergence():
    x = np.random.default_rng(1).normal(size=(300, 5)).astype(np.float32)
    labels, centroids = host_kmeans.kmeans(x, 7, seed=0, num_iterations=300)
    np.testing.assert_array_equal(labels, np.argmin(_squared_distances(x, centroids), axis=1))
    means = [x[labels == k].mean(axis=0) for k in range(7)]
    np.testing.assert_allclose(centroids, means, atol=1e-5)


def test_labels_far_from_zero_agree_with_those_near_zero():
    # Rounded, so that float32 holds the same points in both places.
    x = np.round(256 * np.random.default_rng(3).normal(size=(500, 8))).astype(np.float32) / 256
    start = _start(x, 20)
    near, _ = host_kmeans.lloyd(x, start, num_iterations=0)
    far, _ = host_kmeans.lloyd(x + 1024, start + 1024, num_iterations=0)
    assert np.mean(near == far) > 0.99


@pytest.mark.parametrize(("size", "k"), [(3000, 16), (3000, 500)])
def test_kmeans_repeats_bit_for_bit_on_any_number_of_threads(size, k, monkeypatch):
    x = _embeddings(size, 4 * k, 32)
    labels, centroids = host_kmeans.kmeans(x, k, seed=5)
    for num_threads in (1, 2, 5, 5):
        monkeypatch.setattr("os.cpu_count", lambda num_threads=num_threads: num_threads)
        again_labels, again_centroids = host_kmeans.kmeans(x, k, seed=5)
        assert again_labels.tobytes() == labels.tobytes()
        assert again_centroids.tobytes() == centroids.tobytes()


@pytest.mark.parametrize("centroids_per_block", [1, 3, 8])
def test_tie_goes_to_the_first_cluster(centroids_per_block, monkeypatch):
    # Distances of integers are exact, and many of these points are equally near to two centroids.
    monkeypatch.setattr(host_kmeans, "_CENTROIDS_PER_BLOCK", centroids_per_block)
    x = np.random.default_rng(0).integers(0, 5, size=(400, 2)).astype(np.float32)
    start = np.array([[0, 0], [0, 4], [4, 0], [4, 4]], np.float32)
    labels, _ = host_kmeans.lloyd(x, start, num_iterations=0)
    np.testing.assert_array_equal(labels, np.argmin(_squared_distances(x, start), axis=1))


def test_bounds_hold_after_a_point_has_filled_an_empty_cluster():
    x = _embeddings(200, 40, 8)
    start = np.resize(_start(x, 10), (20, 8))
    origin = x.mean(axis=0)
    known = host_kmeans._create_search(x, origin, map)(None, host_kmeans._shift(start, origin))
    host_kmeans._fill_empty(x, known, start)
    assert len(np.unique(known.label)) == 20
    away = np.sqrt(np.maximum(_squared_distances(x.astype(np.float64), start), 0))
    own_distances = away[np.arange(200), known.label]
    away[np.arange(200), known.label] = np.inf
    assert np.all(own_distances <= known.upper + 1e-6)
    assert np.all(known.lower <= away.min(axis=1) + 1e-6)


def test_empty_cluster_takes_the_farthest_point():
    # The second centroid starts at the first one and loses every tie.
    x = np.array([[0.0], [1.0], [2.0], [30.0]], np.float32)
    labels, centroids = host_kmeans.lloyd(x, np.array([[0], [0]], np.float32), num_iterations=100)
    np.testing.assert_array_equal(labels, [0, 0, 0, 1])
    np.testing.assert_allclose(centroids, [[1.0], [30.0]])


def test_every_cluster_gets_a_point_if_distinct_points_suffice():
    places = np.random.default_rng(0).normal(size=(40, 3))
    x = np.repeat(places, 25, axis=0)
    labels, centroids = host_kmeans.kmeans(x, 40, seed=0)
    assert len(np.unique(labels)) == 40
    np.testing.assert_allclose(centroids[labels], x, atol=1e-6)


def test_fewer_distinct_points_than_clusters_leave_some_empty(monkeypatch):
    assign, rounds = host_kmeans._assign, []
    monkeypatch.setattr(host_kmeans, "_assign", lambda *args: rounds.append(assign(*args)))
    x = np.repeat([[0.0, 1.0], [5.0, 2.0], [7.0, 7.0]], 4, axis=0)
    labels, centroids = host_kmeans.kmeans(x, 8, seed=0)
    assert len(np.unique(labels)) == 3
    assert len(rounds) < 5
    assert np.all(np.isfinite(centroids))
    np.testing.assert_allclose(centroids[labels], x, atol=1e-6)


def test_as_many_clusters_as_points_gives_each_its_own():
    x = _embeddings(30, 10, 6)
    labels, centroids = host_kmeans.kmeans(x, 30, seed=0)
    assert len(np.unique(labels)) == 30
    np.testing.assert_allclose(centroids[labels], x, atol=1e-6)


def test_kmeans_depends_on_the_seed():
    x = np.random.default_rng(0).normal(size=(200, 8))
    assert np.any(host_kmeans.kmeans(x, 5, seed=0)[0] != host_kmeans.kmeans(x, 5, seed=1)[0])


def test_kmeans_errors_name_the_invalid_argument():
    with pytest.raises(ValueError, match="k=4 and 3 points"):
        host_kmeans.kmeans(np.zeros((3, 2)), 4, seed=0)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        host_kmeans.kmeans(np.zeros(3), 1, seed=0)
    with pytest.raises(ValueError, match="finite as float32"):
        host_kmeans.kmeans(np.array([[0.0], [np.nan], [np.inf]]), 1, seed=0)


def test_nmi_equals_golden_numbers():
    labels, clusters = [0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 1, 1, 1, 2, 2, 2]
    assert host_kmeans.nmi(labels, clusters) == pytest.approx(0.5588730382170324, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "clusters"),
    [([0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 1]), ([0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1])],
)
def test_nmi_divides_by_the_arithmetic_mean(labels, clusters):
    expected = _plain_nmi(labels, clusters)
    assert host_kmeans.nmi(np.array(labels), np.array(clusters)) == pytest.approx(
        expected, abs=1e-12
    )
