"""The subspaces of an embedding: how much masks overlap, and how many dimensions are in use."""

import numpy as np


def cosines(masks: np.ndarray) -> np.ndarray:
    """Returns the cosines of all pairs of masks [K, D], which are not negative: float64 [K, K].

    A mask of zeros has a cosine of 0 with all, itself included.
    """
    masks = masks.astype(np.float64)
    norms = np.linalg.norm(masks, axis=1)
    return masks @ masks.T / np.maximum(np.outer(norms, norms), np.finfo(np.float64).tiny)


def effective_dimension(embeddings: np.ndarray) -> float:
    """Returns how many dimensions embeddings [N, D] use: exp(-sum_i p_i log p_i).

    p_i are the eigenvalues of the covariance, divided by their sum (Roy & Vetterli, EUSIPCO 2007).
    It is d for embeddings that vary equally in d orthogonal directions, and 0 if all are equal.
    """
    centered = embeddings - embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
    eigenvalues = np.linalg.eigvalsh((centered.T @ centered).astype(np.float64))
    eigenvalues = np.maximum(eigenvalues, 0)
    # What is below the rounding errors of float32 is no variance.
    eigenvalues[eigenvalues < np.finfo(np.float32).eps * eigenvalues.max()] = 0
    shares = eigenvalues[eigenvalues > 0] / max(eigenvalues.sum(), np.finfo(np.float64).tiny)
    return float(np.exp(-np.sum(shares * np.log(shares)))) if len(shares) else 0.0
