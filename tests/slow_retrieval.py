"""Retrieval scores by a sort of all distances, to test the fast versions against."""

from collections.abc import Sequence

import numpy as np

JUNK = -1  # the label of images that are no answer to any query


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


def slow_market_scores(
    distances: np.ndarray,
    labels: tuple[np.ndarray, np.ndarray],
    cameras: tuple[np.ndarray, np.ndarray],
    ks: Sequence[int],
) -> dict[str, float]:
    """Evaluates as Market-1501 is: one query at a time, by a walk down its sorted list.

    Images of the query's class and camera are passed over, and so is junk; a query that is left
    without an answer counts nowhere.
    """
    lists: dict[str, list[float]] = {}
    for row, label, camera in zip(distances, labels[0], cameras[0], strict=True):
        hits = []
        for j in sorted(range(len(row)), key=lambda j: (row[j], j)):
            if labels[1][j] == JUNK or (labels[1][j] == label and cameras[1][j] == camera):
                continue
            hits.append(labels[1][j] == label)
        if not any(hits):
            continue
        for k in ks:
            lists.setdefault(f"recall_at_{k}", []).append(any(hits[:k]))
        precisions = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit]
        r = len(precisions)
        first = [p for p, i in zip(precisions, np.flatnonzero(hits), strict=True) if i < r]
        lists.setdefault("map", []).append(sum(precisions) / r)
        lists.setdefault("map_at_r", []).append(sum(first) / r)
        lists.setdefault("marp_paper", []).append(sum(first) / max(1, len(first)))
        lists.setdefault("r_precision", []).append(len(first) / r)
    return {name: float(np.mean(values)) for name, values in lists.items()}
