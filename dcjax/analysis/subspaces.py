"""The subspaces of an embedding: how much masks overlap, and how many dimensions are in use."""

import jax
import numpy as np

from dcjax.division import masks as masking

_ROWS_PER_BLOCK = 16_384

_to_subspace = jax.jit(masking.to_subspace, static_argnames="kind")


def project(embeddings: np.ndarray, masks: np.ndarray, cluster: int, kind: str) -> np.ndarray:
    """Returns embeddings [N, D] in the subspace of a cluster, computed in blocks of rows.

    The arguments are those of `masks.to_subspace`.
    """
    projected = np.empty(embeddings.shape, np.float32)
    for start in range(0, len(embeddings), _ROWS_PER_BLOCK):
        block = slice(start, start + _ROWS_PER_BLOCK)
        projected[block] = _to_subspace(embeddings[block], masks, cluster, kind=kind)
    return projected


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
