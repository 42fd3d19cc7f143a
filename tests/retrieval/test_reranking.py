"""Re-ranking against the paper's formulas with dense matrices, and its scores."""

import numpy as np
import pytest
from slow_retrieval import slow_market_scores, slow_score

from dcjax.core.errors import InputError
from dcjax.retrieval import metrics, reranking


def _slow_rerank(
    queries: np.ndarray, gallery: np.ndarray, k1: int, k2: int, weight: float
) -> np.ndarray:
    """Computes the distances as in section 3 of the paper: with sets, and all pairs at once."""
    images = np.concatenate([queries, gallery]).astype(np.float64)
    squared = np.array([np.sum((images - image) ** 2, axis=1) for image in images])
    distances = squared / squared.max(axis=1, keepdims=True)
    ranks = [sorted(range(len(images)), key=lambda j: (row[j], j)) for row in squared]

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in ranks[i][: k + 1] if i in ranks[j][: k + 1]}

    encodings = np.zeros(squared.shape)
    for i in range(len(images)):
        expanded = mutual = reciprocal(i, k1)
        for j in mutual:
            near = reciprocal(j, round(k1 / 2))  # half a number goes to the even one
            if len(near & mutual) > 2 / 3 * len(near):
                expanded = expanded | near
        for j in expanded:
            encodings[i, j] = np.exp(-distances[i, j])
        encodings[i] /= encodings[i].sum()
    if k2 > 1:
        encodings = np.array([encodings[ranks[i][:k2]].mean(axis=0) for i in range(len(images))])
    one, other = encodings[: len(queries), None], encodings[None, len(queries) :]
    jaccard = 1 - np.minimum(one, other).sum(axis=2) / np.maximum(one, other).sum(axis=2)
    return (1 - weight) * jaccard + weight * distances[: len(queries), len(queries) :]


def _draw(num_queries: int, num_gallery: int) -> tuple[np.ndarray, ...]:
    """Returns embeddings in clusters, their classes, and cameras."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(9, 6))
    labels, searched = rng.integers(0, 9, num_queries), rng.integers(0, 9, num_gallery)
    queries, gallery = (centers[x] + 0.8 * rng.normal(size=(len(x), 6)) for x in (labels, searched))
    cameras = rng.integers(0, 3, num_queries), rng.integers(0, 3, num_gallery)
    return queries.astype(np.float32), gallery.astype(np.float32), labels, searched, *cameras


@pytest.mark.parametrize(
    ("k1", "k2", "weight"), [(20, 6, 0.3), (7, 1, 0.0), (5, 9, 0.9), (1, 1, 0.5)]
)
def test_distances_are_those_of_the_papers_formulas(
    k1: int, k2: int, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reranking, "_NUMBERS_PER_BLOCK", 500)  # few queries at a time
    queries, gallery, *_ = _draw(23, 90)
    blocks = reranking.rerank(queries, gallery, k1=k1, k2=k2, original_weight=weight)
    rows, distances = zip(*blocks, strict=True)
    assert len(rows) > 3
    assert [row for block in rows for row in range(23)[block]] == list(range(23))
    expected = _slow_rerank(queries, gallery, k1, k2, weight)
    np.testing.assert_allclose(np.concatenate(distances), expected, atol=1e-12)


def test_few_images_and_equal_ones_are_ranked_too() -> None:
    queries, gallery, *_ = _draw(2, 5)
    gallery[1] = gallery[3] = queries[0]
    ((_, distances),) = reranking.rerank(queries, gallery, k1=20, k2=6, original_weight=0.3)
    np.testing.assert_allclose(distances, _slow_rerank(queries, gallery, 20, 6, 0.3), atol=1e-12)
    ((_, same),) = reranking.rerank(queries[:1], queries[[0, 0]], k1=1, k2=1, original_weight=1.0)
    assert (same == 0).all()


@pytest.mark.parametrize("across_cameras", [True, False])
def test_scores_are_those_of_the_new_ranking(across_cameras: bool) -> None:
    queries, gallery, labels, searched, camera, seen = _draw(30, 100)
    labels[3] = 77  # which has no answer
    distances = _slow_rerank(queries, gallery, 20, 6, 0.3)
    cameras = [camera, seen] if across_cameras else None
    scores = metrics.mean(
        reranking.score_queries(queries, labels, gallery, searched, ks=(1, 5), cameras=cameras)
    )
    if across_cameras:
        slow = slow_market_scores(distances, (labels, searched), (camera, seen), (1, 5))
    else:  # a place on a line for each distance
        parts = [
            slow_score(np.zeros((1, 1)), label[None], np.sqrt(row)[:, None], searched, (1, 5))
            for label, row in zip(labels, distances, strict=True)
        ]
        slow = {
            name: float(np.mean([part[name] for part in parts if name in part]))
            for name in parts[0]
        }
    assert scores == pytest.approx(slow, abs=1e-12)
    before = metrics.score(queries, labels, gallery, searched, ks=(1, 5), cameras=cameras)
    assert before.keys() == scores.keys()
    assert scores["map_at_r"] > before["map_at_r"]  # clusters are what it is for


def test_numbers_of_neighbours_are_positive() -> None:
    with pytest.raises(InputError, match="k1"):
        list(reranking.rerank(*_draw(3, 4)[:2], k1=0, k2=6, original_weight=0.3))
