"""K-means on devices equals that of the host, on any number of devices and processes."""

import ast
import contextlib
import threading
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import many_processes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sklearn.cluster import KMeans

from configs import digits
from dcjax.data.datasets import Splits
from dcjax.data.datasets.image_set import from_classes
from dcjax.distributed import devices, sharded_rows
from dcjax.division import device_kmeans, device_lloyd, division, host_kmeans
from dcjax.experiment import build, epochs
from dcjax.experiment.network import Network
from dcjax.runs.progress import Progress

# The points are those of _blobs(6, 20); importing this module would import far more.
TWO_PROCESSES = """
import numpy as np
from dcjax.division import device_kmeans
from dcjax.distributed import devices
from dcjax.division import division
x = 50 * np.eye(6, 16)[np.arange(120) // 20] + np.random.default_rng(0).normal(size=(120, 16))
mesh = devices.create_mesh()
options = {"seed": 0, "num_iterations": 20, "mesh": mesh}
found = [device_kmeans.kmeans(x, 6, **options)[0]]
options["num_clusters"] = 6
found.append(division.divide(x, np.arange(120) // 5, None, period=0, **options).cluster)
print("found", [labels.tolist() for labels in found])
"""


def _blobs(num_blobs: int, size: int, dim: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Returns points around distant centers, one blob after the other, and each point's blob."""
    blob = np.repeat(np.arange(num_blobs), size)
    noise = np.random.default_rng(0).normal(size=(len(blob), dim))
    return (50 * np.eye(num_blobs, dim)[blob] + noise).astype(np.float32), blob


def _random(size: int, dim: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(size, dim)).astype(np.float32)


def _mesh(num_devices: int) -> Mesh:
    return devices.create_mesh(jax.devices()[:num_devices])


def _start(x: np.ndarray, k: int) -> np.ndarray:
    return np.random.default_rng(0).choice(len(x), k, replace=False)


def _inertia(x: np.ndarray, labels: np.ndarray, centroids: np.ndarray) -> float:
    return float(np.sum((x - centroids[labels]) ** 2, dtype=np.float64))


def _plain_lloyd(x: np.ndarray, start: np.ndarray, num_iterations: int) -> Any:
    """Lloyd's algorithm point by point and cluster by cluster, in float64."""
    x, centroids = x.astype(np.float64), start.astype(np.float64)

    def nearest() -> list[int]:
        return [int(np.argmin(np.sum((point - centroids) ** 2, axis=1))) for point in x]

    labels = nearest()
    for _ in range(num_iterations):
        away = [float(np.sum((x[i] - centroids[labels[i]]) ** 2)) for i in range(len(x))]
        empty = [c for c in range(len(start)) if c not in labels]
        for c in empty:
            farthest = max(range(len(x)), key=lambda i: away[i])
            if away[farthest] > 0:
                labels[farthest], away[farthest] = c, 0
        before = list(labels)
        for c in set(labels):
            centroids[c] = np.mean([x[i] for i in range(len(x)) if labels[i] == c], axis=0)
        labels = nearest()
        if labels == before:
            break
    return labels, centroids


@pytest.mark.parametrize("num_devices", [1, 8])
@pytest.mark.parametrize(
    ("size", "k", "dim", "num_iterations"),
    [(300, 1, 5, 20), (501, 130, 16, 60), (30, 30, 6, 9)],
)
def test_device_kmeans_equals_host_kmeans_from_the_same_start(
    num_devices, size, k, dim, num_iterations
):
    x, mesh = _random(size, dim), _mesh(num_devices)
    options = {"seed": 3, "num_iterations": num_iterations}
    expected, expected_centroids = host_kmeans.kmeans(x, k, **options)
    labels, centroids = device_kmeans.kmeans(x, k, mesh=mesh, **options)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_allclose(centroids, expected_centroids, atol=1e-5)
    assert (labels.dtype, centroids.dtype) == (np.int32, np.float32)
    start = _start(x, k)
    expected, _ = host_kmeans.lloyd(x, x[start], num_iterations=num_iterations)
    for given in (start, x[start]):
        labels, _ = device_kmeans.kmeans(x, k, start=given, mesh=mesh, **options)
        np.testing.assert_array_equal(labels, expected)


def test_labels_do_not_depend_on_the_number_of_devices():
    x, _ = _blobs(7, 19)
    results = [device_kmeans.kmeans(x, 7, seed=4, mesh=mesh) for mesh in (None, _mesh(8))]
    np.testing.assert_array_equal(results[1][0], results[0][0])
    np.testing.assert_allclose(results[1][1], results[0][1], atol=1e-4)


@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize(("k", "numbers_per_block"), [(8, 2**22), (85, 700)])
def test_empty_clusters_take_the_farthest_points(num_devices, k, numbers_per_block, monkeypatch):
    monkeypatch.setattr(device_lloyd, "_NUMBERS_PER_BLOCK", numbers_per_block)
    # Of two equal points, which are equally far, the first is taken. Later, two points
    # that share a centroid are equally far up to rounding.
    for x, num_iterations in [(np.tile(_random(43, 3), (2, 1)), 1), (_random(86, 3), 40)]:
        start = np.resize(x[_start(x, k // 4)], (k, 3))
        expected, expected_centroids = _plain_lloyd(x, start, num_iterations)
        labels, centroids = device_kmeans.kmeans(
            *(x, k), seed=0, start=start, num_iterations=num_iterations, mesh=_mesh(num_devices)
        )
        np.testing.assert_array_equal(labels, expected)
        np.testing.assert_allclose(centroids, expected_centroids, atol=1e-5)


def test_identical_points_leave_clusters_empty():
    x = np.repeat(_random(3, 5), 9, axis=0)
    labels, centroids = device_kmeans.kmeans(x, 8, seed=0, mesh=_mesh(4))
    assert len(np.unique(labels)) == 3
    np.testing.assert_allclose(centroids[labels], x, atol=1e-6)


def test_rounding_does_not_change_labels_far_from_zero():
    # All points on one line, their extent a thousandth of their distance from zero.
    scale = 1 + 1e-3 * np.random.default_rng(0).normal(size=(300, 1))
    x = (scale * np.full(512, 0.1)).astype(np.float32)
    labels, centroids = device_kmeans.kmeans(x, 20, seed=0, mesh=_mesh(8))
    away = np.sum((x[:, None].astype(np.float64) - centroids) ** 2, axis=2)
    np.testing.assert_array_equal(labels, away.argmin(axis=1))


def test_scale_changes_neither_labels_nor_centroids():
    x, options = _random(200, 8), {"seed": 0, "mesh": _mesh(8)}
    expected, expected_centroids = device_kmeans.kmeans(x, 12, **options)
    for exponent in (-100, -66, -40, 60, 110):
        labels, centroids = device_kmeans.kmeans(np.ldexp(x, exponent), 12, **options)
        np.testing.assert_array_equal(labels, expected)
        np.testing.assert_array_equal(centroids, np.ldexp(expected_centroids, exponent))
    # Rows that are not clustered have no influence.
    surplus = np.concatenate([np.ldexp(x, -66), np.full((8, 8), 1e30, np.float32)])
    labels, _ = device_kmeans.kmeans(surplus, 12, rows=np.arange(200), **options)
    np.testing.assert_array_equal(labels, expected)
    assert len(np.unique(labels)) == 12
    given = expected_centroids[::-1]
    labels, _ = device_kmeans.kmeans(x, 12, start=given, **options)
    scaled = np.ldexp(x, -80), np.ldexp(given, -80)
    actual, _ = device_kmeans.kmeans(scaled[0], 12, start=scaled[1], **options)
    np.testing.assert_array_equal(actual, labels)


def test_rows_not_selected_are_ignored():
    x, mesh = _random(200, 8), _mesh(8)
    rows = np.sort(_start(x, 131))
    options = {"seed": 5, "num_iterations": 20}
    surplus = np.full((24, 8), np.nan, np.float32)
    padded = device_kmeans.shard(np.concatenate([x, surplus]), mesh)
    want, want_centroids = device_kmeans.kmeans(x[rows], 9, mesh=mesh, **options)
    assert jnp.isnan(padded[-1, -1])
    labels, centroids = device_kmeans.kmeans(padded, 9, rows=rows, **options)
    np.testing.assert_array_equal(labels, want)
    np.testing.assert_allclose(centroids, want_centroids, atol=1e-6)


def test_inertia_is_as_low_as_scikit_learns():
    def theirs(x: np.ndarray, start: np.ndarray) -> KMeans:
        model = KMeans(len(start), init=start, n_init=1, max_iter=300, tol=0, algorithm="lloyd")
        return model.fit(x)

    x, _ = _blobs(5, 31)
    start = x[3::31]
    labels, _ = device_kmeans.kmeans(x, 5, seed=0, start=start, mesh=_mesh(8))
    np.testing.assert_array_equal(labels, theirs(x, start).labels_)
    x = _random(1500, 12)
    start = x[_start(x, 20)]
    options = {"seed": 0, "start": start, "num_iterations": 300, "mesh": _mesh(8)}
    assert _inertia(x, *device_kmeans.kmeans(x, 20, **options)) == pytest.approx(
        theirs(x, start).inertia_, rel=1e-4
    )


def test_any_rows_share_one_compilation():
    x, mesh = _random(173, 4), _mesh(8)
    points = device_kmeans.shard(x, mesh)
    device_kmeans.kmeans(points, 3, seed=0)
    before = device_lloyd.lloyd._cache_size(), sharded_rows._gather._cache_size()
    device_kmeans.kmeans(points, 3, seed=1, rows=np.arange(0, 170, 3), num_iterations=7)
    device_kmeans.kmeans(x, 3, seed=2, rows=np.arange(5), mesh=mesh)
    assert (device_lloyd.lloyd._cache_size(), sharded_rows._gather._cache_size()) == before


@pytest.mark.parametrize("num_devices", [1, 8])
def test_memory_holds_no_array_of_all_distances(num_devices):
    mesh, n, k, dim = _mesh(num_devices), 2**18, 4096, 64
    rows, replicated = devices.rows_sharding(mesh), devices.replicated(mesh)
    x = jax.ShapeDtypeStruct((n, dim), jnp.float32, sharding=rows)
    counts = jax.ShapeDtypeStruct((n,), jnp.bool, sharding=rows)
    start = jax.ShapeDtypeStruct((k, dim), jnp.float32, sharding=replicated)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    lowered = device_lloyd.lloyd.lower(x, counts, start, number, mesh=mesh)
    used = lowered.compile().memory_analysis()
    assert used.temp_size_in_bytes < 2**20 * 128  # of 4,096 MiB for all distances
    assert used.argument_size_in_bytes < n * (4 * dim + 2) / num_devices + 8 * k * dim


def test_division_is_the_same_on_host_and_devices():
    x, _ = _blobs(4, 25)
    labels = np.arange(100) // 5
    # The first blob is merged with the second, and so on; each cluster splits into its two blobs.
    previous = division.Division(
        np.repeat([0, 1], 50).astype(np.int32), np.arange(2, dtype=np.int32), 0
    )
    x[:, 15] += np.repeat([0, 300], 50)
    mesh, options = _mesh(8), {"num_clusters": 4, "period": 1, "seed": 0}
    want = division.divide(x, labels, previous, **options)
    assert len(np.unique(want.cluster)) == 4
    for features in (x, device_kmeans.shard(x, mesh)):
        found = division.divide(features, labels, previous, mesh=mesh, **options)
        np.testing.assert_array_equal(found.cluster, want.cluster)
    with pytest.raises(ValueError, match="104 and 101 rows"):
        division.divide(np.zeros((104, 2)), np.zeros(101, int), None, mesh=mesh, **options)


def test_device_kmeans_runs_in_the_main_thread_host_kmeans_in_another(monkeypatch):
    x, classes = _blobs(4, 18)
    images = from_classes(np.zeros((72, 8, 8, 1), np.uint8), np.arange(72) // 6)
    config = digits.get_config()
    config.division.update(hierarchy="direct", max_clusters=4)
    config.sampling.update(batch_size=8, images_per_class=2)
    divide, threads = division.divide, []

    def observed(*args: Any, **options: Any) -> division.Division:
        threads.append(threading.current_thread())
        return divide(*args, **options)

    monkeypatch.setattr(division, "divide", observed)
    mesh = devices.create_mesh()
    embedded = sharded_rows.shard(x, mesh)
    monkeypatch.setattr(Network, "embed", lambda *args, **options: embedded)
    experiment = build.Experiment(config, mesh, Splits(images, images))
    clusters, figures = [], []
    for config.division.kmeans in ("host", "devices"):
        with contextlib.closing(epochs.Planner(experiment)) as planner:
            planner.begin(Progress(), None, SimpleNamespace(variables={}))
            epoch = planner.finish()
            clusters.append(epoch.division.cluster)
            figures.append(epoch.figures)
    assert [thread is threading.main_thread() for thread in threads] == [False, True]
    np.testing.assert_array_equal(clusters[0], clusters[1])
    assert figures[0] == figures[1]
    assert figures[0]["nearest_negative_ratio"] < 1
    assert host_kmeans.nmi(clusters[1], classes) == pytest.approx(1)


@pytest.mark.long
def test_two_processes_give_the_result_of_one():
    # The communication library prints lines too.
    outputs = [output.split("found ")[1] for output in many_processes.run(TWO_PROCESSES)]
    first, second = (ast.literal_eval(output.splitlines()[0]) for output in outputs)
    assert first == second
    alone, divided = first
    x, _ = _blobs(6, 20)
    expected, _ = host_kmeans.kmeans(x, 6, seed=0, num_iterations=20)
    np.testing.assert_array_equal(alone, expected)
    options = {"num_clusters": 6, "period": 0, "seed": 0, "num_iterations": 20}
    expected = division.divide(x, np.arange(120) // 5, None, **options).cluster
    np.testing.assert_array_equal(divided, expected)


def test_errors_name_the_invalid_argument():
    x = np.zeros((6, 2), np.float32)
    for message, options in {
        "k=7 and 6 points": {"k": 7},
        "k=4 and 3 points": {"k": 4, "rows": np.arange(3)},
        "ascend within 0 to 5": {"k": 1, "rows": np.array([2, 2])},
        r"start must be 2 of the row numbers .*float64 of shape \(2, 3\)": {
            "start": np.ones((2, 3))
        },
        r"start must be 2 of .*int64 of shape \(2,\)": {"start": np.array([0, 6])},
    }.items():
        with pytest.raises(ValueError, match=message):
            device_kmeans.kmeans(x, **{"k": 2, "seed": 0} | options)
    with pytest.raises(ValueError, match=r"shape \(6,\)"):
        device_kmeans.kmeans(x[:, 0], 2, seed=0)
    with pytest.raises(ValueError, match="finite as float32"):
        device_kmeans.kmeans(np.where(np.arange(6)[:, None] == 3, np.inf, x), 2, seed=0)
    columns = jax.device_put(x, NamedSharding(_mesh(2), PartitionSpec(None, "data")))
    with pytest.raises(ValueError, match=r"PartitionSpec\(\('cluster', 'data'\)\), got"):
        device_kmeans.kmeans(columns, 2, seed=0)
