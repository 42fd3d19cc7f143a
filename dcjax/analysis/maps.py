"""Maps of embeddings in the plane, and the distances that they distort."""

import numpy as np
import threadpoolctl

_PERPLEXITY = 30
_LEAST = 5  # points of t-SNE, which needs more than its perplexity


def sample_classes(labels: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Returns ascending rows of at most `size` of the images [N]: whole classes, drawn at random.

    Single images of many classes would show nothing of how classes lie. Of a class that is larger
    than a twentieth of the sample, that many images are drawn, or more where classes are few.
    """
    if len(labels) <= size:
        return np.arange(len(labels))
    classes, place = np.unique(labels, return_inverse=True)
    most = max(size // 20, -(-size // len(classes)))
    order = generator.permutation(len(labels))
    rank = generator.permutation(len(classes))[place[order]]
    order = order[np.argsort(rank, kind="stable")]
    _, first, counts = np.unique(np.sort(rank), return_index=True, return_counts=True)
    number = np.arange(len(order)) - np.repeat(first, counts)
    return np.sort(order[number < most][:size])


def pca(embeddings: np.ndarray) -> np.ndarray:
    """Returns the projections of points [n, D], D >= 2, on their two directions of most variance.

    The largest coordinate of each direction is positive, so that maps of one run are alike.
    """
    centered = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    _, directions = np.linalg.eigh(centered.T @ centered)
    directions = directions[:, :-3:-1]
    largest = np.argmax(np.abs(directions), axis=0)
    return centered @ (directions * np.sign(directions[largest, [0, 1]]))


def tsne(embeddings: np.ndarray) -> np.ndarray | None:
    """Returns the map of points [n, D] by t-SNE (van der Maaten & Hinton 2008), [n, 2].

    It is the same in every call: it starts from PCA, and runs on one core, since sums over several
    are rounded in any order.

    Returns:
      The map; None if there are too few points for one.
    """
    if len(embeddings) < _LEAST:
        return None
    from sklearn.manifold import TSNE  # its import takes seconds

    perplexity = min(_PERPLEXITY, (len(embeddings) - 1) / 3)
    reducer = TSNE(perplexity=perplexity, init=_initial(embeddings), random_state=0, n_jobs=1)
    with threadpoolctl.threadpool_limits(1):
        return reducer.fit_transform(embeddings)


def _initial(embeddings: np.ndarray) -> np.ndarray:
    """Returns the points that t-SNE starts from, of deviation 1e-4 in the first direction."""
    points = pca(embeddings)
    return (1e-4 * points / max(float(points[:, 0].std()), 1e-12)).astype(np.float32)


def sample_pairs(
    labels: np.ndarray, size: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws pairs of images of one class, and pairs of images of two classes, with repetition.

    Args:
      labels: classes of the images [N].
      size: pairs of each kind.
      generator: of the draws.

    Returns:
      Rows, int [P, 2] and int [P', 2]; fewer than `size` where there are none, or few.
    """
    _, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    by_class = np.argsort(place, kind="stable")
    starts = np.cumsum(counts) - counts
    number = np.empty(len(labels), np.int64)  # of each image in its class
    number[by_class] = np.arange(len(labels)) - np.repeat(starts, counts)
    paired = np.flatnonzero(counts[place] > 1)
    first = generator.choice(paired, size) if len(paired) else paired
    step = 1 + generator.integers(np.maximum(counts[place[first]] - 1, 1))
    partner = (number[first] + step) % counts[place[first]]
    within = np.stack([first, by_class[starts[place[first]] + partner]], axis=1)
    between = generator.integers(len(labels), size=(size, 2))
    return within, between[place[between[:, 0]] != place[between[:, 1]]]


def distances(embeddings: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Returns the Euclidean distances of pairs [P, 2] of embeddings [N, D], float64 [P]."""
    differences = embeddings[pairs[:, 0]].astype(np.float64) - embeddings[pairs[:, 1]]
    return np.sqrt(np.sum(differences**2, axis=1))
