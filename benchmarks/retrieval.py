"""Retrieval scores beside the plain products of all pairs, and beside what peers take for them.

By default 10,000 embeddings of 512 numbers and 2,000 classes retrieve each other: about 3 minutes
on two cores, or half a minute `--without_peers`. `--full` takes 60,502 in 11,316 classes, the size
of Stanford Online Products' test set: about 20 minutes. `--million` scores the first 2,048 of a
million queries against a gallery of a million, of 128 numbers, and says what all of them would
take: about 2 minutes. All use all cores, in float32, and are given the same embeddings; the column
of results shows that scores are equal, but that pytorch-metric-learning leaves queries out whose
class has no other image.
"""

import argparse
import resource
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from compare import compare

from dcjax.retrieval import metrics

KS = (1, 10, 100, 1000)
# The number of queries with which the plain products are fastest on two cores.
PLAIN_BLOCK = 64
BLOCK = 256

Scores = dict[str, float]


def embeddings(size: int, dim: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns normalised points [N, D] around the centres of their classes, and classes [N].

    Made in parts, so that a process's peak of memory is not set before anything is measured.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(num_classes, size=size)
    centres = rng.standard_normal((num_classes, dim), np.float32)
    noise = 2.2 if dim >= 512 else 1.25  # for a recall at 1 between 0.5 and 0.9
    x = np.empty((size, dim), np.float32)
    for part in (slice(i, i + 4096) for i in range(0, size, 4096)):
        rows = centres[labels[part]]
        rows += noise * rng.standard_normal(rows.shape, np.float32)
        x[part] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return x, labels


def ours(size: int, dim: int, num_classes: int) -> Callable[[], Scores]:
    """Prepares all scores by dcjax."""
    x, labels = embeddings(size, dim, num_classes)
    return lambda: metrics.score(x, labels, ks=KS)


def products(size: int, dim: int, num_classes: int) -> Callable[[], Scores]:
    """Prepares the products of all pairs, jitted, a block at a time, and nothing else."""
    x, _ = embeddings(size, dim, num_classes)

    @jax.jit
    def block_products(queries: jax.Array, gallery: jax.Array) -> jax.Array:
        return jnp.einsum("gd,qd->gq", gallery, queries, precision=jax.lax.Precision.HIGHEST)

    gallery = jax.device_put(x)

    def job() -> Scores:
        for start in range(0, size, PLAIN_BLOCK):
            block_products(x[start : start + PLAIN_BLOCK], gallery).block_until_ready()
        return {}

    return job


def jax_top_k(size: int, dim: int, num_classes: int) -> Callable[[], Scores]:
    """Prepares a search of the nearest 1,000 by jax.lax.top_k."""
    x, labels = embeddings(size, dim, num_classes)
    gallery, norms = jax.device_put((x, np.sum(x**2, axis=1)))

    @jax.jit
    def nearest(queries: jax.Array, gallery: jax.Array, norms: jax.Array) -> jax.Array:
        products = jnp.einsum("qd,gd->qg", queries, gallery, precision=jax.lax.Precision.HIGHEST)
        return jax.lax.top_k(2 * products - norms, KS[-1] + 1)[1]

    return lambda: _recalls(labels, lambda rows: np.asarray(nearest(x[rows], gallery, norms)))


def torch_topk(size: int, dim: int, num_classes: int) -> Callable[[], Scores]:
    """Prepares a search of the nearest 1,000 by torch.topk."""
    import torch

    x, labels = embeddings(size, dim, num_classes)
    gallery = torch.from_numpy(x)
    norms = (gallery**2).sum(dim=1)

    def nearest(rows: slice) -> np.ndarray:
        nearness = torch.addmm(norms, gallery[rows], gallery.T, beta=-1, alpha=2)
        return nearness.topk(KS[-1] + 1, dim=1).indices.numpy()

    return lambda: _recalls(labels, nearest)


def faiss_flat(size: int, dim: int, num_classes: int) -> Callable[[], Scores]:
    """Prepares a search of the nearest 1,000 by faiss, exact."""
    import faiss

    x, labels = embeddings(size, dim, num_classes)
    index = faiss.IndexFlatL2(dim)
    index.add(x)
    return lambda: _recalls(labels, lambda rows: index.search(x[rows], KS[-1] + 1)[1], block=4096)


def metric_learning(size: int, dim: int, num_classes: int, k: str | None) -> Callable[[], Scores]:
    """Prepares the scores of pytorch-metric-learning; k None, its default, ranks everything."""
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    x, labels = embeddings(size, dim, num_classes)
    names = {
        "precision_at_1": "recall_at_1",
        "mean_average_precision_at_r": "map_at_r",
        "r_precision": "r_precision",
    }
    calculator = AccuracyCalculator(include=tuple(names), k=k, device=torch.device("cpu"))

    def job() -> Scores:
        scores = calculator.get_accuracy(x, labels)
        return {ours: float(scores[theirs]) for theirs, ours in names.items()}

    return job


def _recalls(
    labels: np.ndarray, search: Callable[[slice], np.ndarray], block: int = BLOCK
) -> Scores:
    """Returns recall at k from a search of the KS[-1] + 1 nearest, the queries among them."""
    hits = np.zeros(len(KS))
    for start in range(0, len(labels), block):
        rows = np.arange(len(labels))[start : start + block]
        nearest = search(slice(start, start + block))
        found = (labels[nearest] == labels[rows, None]) & (nearest != rows[:, None])
        # Where the query itself comes later than an image as near, so does all from there on.
        first = np.where(found.any(axis=1), found.argmax(axis=1), len(labels))
        own = (nearest == rows[:, None]).argmax(axis=1)
        hits += [np.sum(first - (own < first) < k) for k in KS]
    return {f"recall_at_{k}": n / len(labels) for k, n in zip(KS, hits, strict=True)}


def million(num_queries: int = 2048, size: int = 10**6, dim: int = 128) -> None:
    """Prints what a part of the queries of a large set takes, and what all of them would."""
    x, labels = embeddings(size + num_queries, dim, size // 5)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):  # the first one compiles
        started = time.perf_counter()
        scores = metrics.score(
            x[:num_queries], labels[:num_queries], x[num_queries:], labels[num_queries:], ks=KS
        )
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        f"\n### Scores of {num_queries:,} of {size:,} queries, gallery {size:,} x {dim}\n\n"
        f"{seconds:.3g} s, {peak / 1024:.0f} MiB beyond the {x.nbytes / 2**20:.0f} MiB of "
        f"embeddings; extrapolated, not measured: {seconds * size / num_queries / 3600:.3g} h for "
        f"all queries\n\n" + ", ".join(f"{name} {value:.6g}" for name, value in scores.items())
    )


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--full", action="store_true", help="60,502 embeddings, 11,316 classes")
    parser.add_argument("--million", action="store_true", help="a part of a million queries")
    parser.add_argument("--without_peers", action="store_true", help="beside the products alone")
    options = parser.parse_args()
    if options.million:
        million()
        return
    sizes = (60_502, 512, 11_316) if options.full else (10_000, 512, 2_000)
    size, dim, num_classes = sizes
    subject = f"Scores of {size:,} x {dim}, {num_classes:,} classes"
    mine = {
        "dcjax, all scores": partial(ours, *sizes),
        "products of all pairs alone": partial(products, *sizes),
    }
    peers = {
        "pytorch-metric-learning, k=max_bin_count": partial(
            metric_learning, *sizes, "max_bin_count"
        ),
        "faiss IndexFlatL2, nearest 1,000": partial(faiss_flat, *sizes),
        "torch.topk in blocks": partial(torch_topk, *sizes),
        "jax.lax.top_k in blocks": partial(jax_top_k, *sizes),
    }
    if not options.full:  # the neighbours' indices alone would be 27 GiB
        peers["pytorch-metric-learning, as it is by default"] = partial(
            metric_learning, *sizes, None
        )
    measure = partial(compare, work=2e-9 * size * size * dim, unit="GFLOP")
    measure(subject, mine, rounds=3 if options.full else 5)
    if options.without_peers:
        return
    name, first = next(iter(mine.items()))
    measure(
        f"{subject}, beside peers",
        {name: first} | peers,
        rounds=1 if options.full else 2,
        warm_up=not options.full,
    )


if __name__ == "__main__":
    main()
