"""K-means and the agreement of two labellings (Sanakoyeu et al., CVPR 2019, sections 3 and 4)."""

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score
from threadpoolctl import threadpool_limits


def kmeans(
    x: np.ndarray, k: int, *, seed: int, num_iterations: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """Divides points into k clusters by Lloyd's algorithm, started at k random points.

    The same input gives the same bits on every run on a machine.

    Args:
      x: points [N, F], used as float32.
      k: number of clusters, at most N.
      seed: chooses the k points that the centroids start from.
      num_iterations: largest number of iterations; fewer run only if no label changes any more.

    Returns:
      labels int32 [N] and centroids float32 [k, F].
    """
    x = np.asarray(x, dtype=np.float32)
    if x.ndim != 2:
        raise ValueError(f"x must be points of shape [N, F], got shape {x.shape}.")
    if not 1 <= k <= len(x):
        raise ValueError(f"Require 1 <= k <= number of points, got k={k} and {len(x)} points.")
    model = KMeans(k, init="random", n_init=1, max_iter=num_iterations, tol=0.0, random_state=seed)
    # Several threads add their partial sums in whatever order they finish, so the centroids would
    # differ in the last bit from run to run, and after some iterations so would the labels.
    with threadpool_limits(limits=1):
        model.fit(x)
    return model.labels_.astype(np.int32), model.cluster_centers_


def nmi(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Returns the normalised mutual information 2 I(Y; C) / (H(Y) + H(C)) of two labellings [N]."""
    return float(normalized_mutual_info_score(labels, clusters, average_method="arithmetic"))
