"""K-means beside faiss and scikit-learn, from the same centroids; division of a training set.

By default 20,000 embeddings of 256 numbers are divided into 3,700 clusters, as many as classes, in
at most 20 iterations, and 60,000 features of 2,048 numbers into 32 clusters: about 2 minutes on two
cores. `--devices 1 2` adds K-means on one virtual CPU device and on two that share the same cores,
which takes as many minutes more for each round. `--full` clusters 60,502 embeddings of 512 numbers
into 11,316, the size of Stanford Online Products' test set: about 10 minutes. All use all cores, in
float32. scikit-learn and ours stop when no label changes; faiss always runs all iterations.
"""

import argparse
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from compare import compare

from dcjax.distributed import devices
from dcjax.division import device_kmeans, division, host_kmeans

_MOVEMENT = 0.3  # of features of length 1 between two divisions


def embeddings(size: int, dim: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns normalised points [N, F] and classes [N]; recall at 1 is about that of a real set.

    Class centres and the noise around them lie in the same few directions mostly, and some points
    are noisier than others: what a network makes of classes that it has not seen.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(num_classes, size=size)
    scale = (1 / (1 + np.arange(dim) / 8)).astype(np.float32)
    x = (scale * rng.standard_normal((num_classes, dim), np.float32))[labels]
    noise = 0.8 * np.exp(0.4 * rng.standard_normal((size, 1), np.float32))
    x += noise * scale * rng.standard_normal((size, dim), np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True), labels


def features(size: int, dim: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns points [N, F] that are never negative, as a ResNet's features, and classes [N]."""
    latent, labels = embeddings(size, 64, num_classes)
    rng = np.random.default_rng(1)
    x = 2 * latent @ rng.standard_normal((64, dim), np.float32)
    x += 0.5 * rng.standard_normal(x.shape, np.float32) - 0.5
    np.maximum(x, 0, out=x)
    return x / np.linalg.norm(x, axis=1, keepdims=True), labels


def _case(size: int, dim: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, classes = embeddings(size, dim, k)
    return x, classes, x[np.random.default_rng(0).choice(size, k, replace=False)]


def _scores(
    x: np.ndarray, classes: np.ndarray, labels: np.ndarray, centroids: np.ndarray
) -> dict[str, float]:
    inertia = sum(
        np.sum((x[i : i + 4096] - centroids[labels[i : i + 4096]]) ** 2, dtype=np.float64)
        for i in range(0, len(x), 4096)
    )
    return {"inertia": float(inertia), "nmi": host_kmeans.nmi(classes, labels)}


def ours(size: int, dim: int, k: int, num_iterations: int) -> Callable[[], dict[str, float]]:
    """Prepares K-means by dcjax."""
    x, classes, start = _case(size, dim, k)

    def job() -> dict[str, float]:
        found = host_kmeans.lloyd(x, start, num_iterations=num_iterations)
        return _scores(x, classes, *found)

    return job


def on_devices(
    size: int, dim: int, k: int, num_iterations: int, num_devices: int
) -> Callable[[], dict[str, float]]:
    """Prepares K-means by dcjax on virtual devices, and compiles it."""
    jax.config.update("jax_num_cpu_devices", num_devices)
    x, classes, start = _case(size, dim, k)
    points = device_kmeans.shard(x, devices.create_mesh())
    cluster = partial(device_kmeans.kmeans, points, k, seed=0, start=start, rows=np.arange(size))
    cluster(num_iterations=0)

    def job() -> dict[str, float]:
        return _scores(x, classes, *cluster(num_iterations=num_iterations))

    return job


def with_faiss(size: int, dim: int, k: int, num_iterations: int) -> Callable[[], dict[str, float]]:
    """Prepares K-means by faiss, without drawing a part of the points."""
    import faiss

    x, classes, start = _case(size, dim, k)

    def job() -> dict[str, float]:
        model = faiss.Kmeans(
            dim, k, niter=num_iterations, max_points_per_centroid=size, min_points_per_centroid=1
        )
        model.train(x, init_centroids=start)
        _, labels = model.index.search(x, 1)
        return _scores(x, classes, labels[:, 0], np.asarray(model.centroids))

    return job


def with_sklearn(
    size: int, dim: int, k: int, num_iterations: int
) -> Callable[[], dict[str, float]]:
    """Prepares K-means by scikit-learn, Lloyd's as it is by default."""
    import warnings

    from sklearn.cluster import KMeans

    x, classes, start = _case(size, dim, k)

    def job() -> dict[str, float]:
        model = KMeans(k, init=start, n_init=1, max_iter=num_iterations, tol=0, algorithm="lloyd")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged: so it is meant
            model.fit(x)
        scores = _scores(x, classes, model.labels_, model.cluster_centers_)
        return scores | {"iterations": model.n_iter_}

    return job


def divide(
    size: int,
    dim: int,
    before: int,
    num_clusters: int,
    *,
    start: str = "random",
    num_devices: int = 0,
) -> Callable[[], dict[str, float]]:
    """Divides once more, from the given number of clusters: K-means, matching and bisection.

    The clusters before are those of features that training has moved a little since. K-means runs
    on virtual devices, if there are any, and else on the host.
    """
    mesh = None
    if num_devices:
        jax.config.update("jax_num_cpu_devices", num_devices)
        mesh = devices.create_mesh()
    x, labels = features(size, dim, 11318)
    noise = np.random.default_rng(2).standard_normal(x.shape, np.float32)
    moved = x + _MOVEMENT * noise / np.sqrt(np.float32(dim))
    previous = division.divide(moved, labels, None, num_clusters=before, period=0, seed=0)
    del moved, noise

    def job() -> dict[str, float]:
        found = division.divide(
            x,
            labels,
            previous,
            num_clusters=num_clusters,
            period=1,
            seed=0,
            start=start,
            mesh=mesh,
        )
        return {
            "smallest": int(found.sizes.min()),
            "NMI with the clusters before": division.agreement(found, previous),
        }

    return job


def main() -> None:
    """Compares and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="at the size of SOP's test set")
    parser.add_argument("--iterations", type=int, default=20, help="at most")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each that count")
    parser.add_argument(
        "--devices", type=int, nargs="*", default=[], help="numbers of virtual devices beside"
    )
    parser.add_argument("--no_peers", action="store_true", help="ours alone")
    options = parser.parse_args()
    size, dim, k = (60502, 512, 11316) if options.full else (20000, 256, 3700)
    prepare: dict[str, Callable[..., Callable[[], dict[str, float]]]] = {"dcjax": ours}
    for number in options.devices:
        prepare[f"dcjax, devices: {number}"] = partial(on_devices, num_devices=number)
    if not options.no_peers:
        prepare |= {"faiss": with_faiss, "scikit-learn": with_sklearn}
    compare(
        f"K-means, {size:,} x {dim} into {k:,}, at most {options.iterations} iterations",
        {name: partial(f, size, dim, k, options.iterations) for name, f in prepare.items()},
        rounds=options.rounds,
        warm_up=False,
    )
    again = partial(divide, 60000, 2048, 32, 32)
    compare(
        "division of 60,000 x 2,048, at most 100 iterations of each K-means",
        {
            "16 to 32 clusters": partial(divide, 60000, 2048, 16, 32),
            "32 to 32 clusters": again,
            "32 to 32 clusters, start: previous": partial(again, start="previous"),
        }
        | {
            f"32 to 32 clusters, devices: {number}": partial(again, num_devices=number)
            for number in options.devices
        },
        rounds=options.rounds,
        warm_up=False,
        same_job=False,
    )


if __name__ == "__main__":
    main()
