"""Retrieval scores by a sort of all distances, to test the fast versions against."""

from collections.abc import Sequence

import numpy as np


def slow_score(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray | None,
    gallery_labels: np.ndarray | None,
    ks: Sequence[int],
) -> dict[str, float]:
    """Ranks each query by a stable sort of all its distances; gallery None excludes itself."""
    scores: dict[str, list[float]] = {}
    for i, (query, label) in enumerate(zip(queries, query_labels, strict=True)):
        others, labels = (
            (gallery, gallery_labels)
            if gallery is not None
            else (
                np.delete(queries, i, axis=0),
                np.delete(query_labels, i),
            )
        )
        order = np.argsort(np.sum((others - query) ** 2, axis=1), kind="stable")
        hits = [int(labels[j] == label) for j in order]
        for k in ks:
            scores.setdefault(f"recall_at_{k}", []).append(max(hits[:k]))
        r = sum(hits)
        if r:
            total = sum(h * sum(hits[: j + 1]) / (j + 1) for j, h in enumerate(hits[:r]))
            scores.setdefault("map_at_r", []).append(total / r)
            scores.setdefault("marp_paper", []).append(total / max(1, sum(hits[:r])))
            scores.setdefault("r_precision", []).append(sum(hits[:r]) / r)
    return {name: float(np.mean(values)) for name, values in scores.items()}


def slow_score_one_per_class(
    embeddings: np.ndarray, labels: np.ndarray, ks: Sequence[int], num_draws: int
) -> dict[str, float]:
    """Draws galleries as documented, finding the images of a class in a loop over the rows."""
    classes = sorted(set(labels.tolist()))
    counts = [labels.tolist().count(c) for c in classes]
    draws = []
    for draw in range(num_draws):
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([0, 6, draw])))
        numbers = generator.integers(counts)
        gallery = sorted(
            [i for i, label in enumerate(labels) if label == c][number]
            for c, number in zip(classes, numbers, strict=True)
        )
        rest = [i for i in range(len(labels)) if i not in gallery]
        draws.append(
            slow_score(embeddings[rest], labels[rest], embeddings[gallery], labels[gallery], ks)
        )
    return {name: float(np.mean([scores[name] for scores in draws])) for name in draws[0]}
