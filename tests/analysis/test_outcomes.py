"""What queries find, against plain loops over all pairs."""

import collections

import numpy as np
import pytest

from dcjax.analysis import outcomes
from dcjax.retrieval import metrics
from dcjax.retrieval.neighbors import Gallery


def _embeddings(labels: np.ndarray, seed: int, noise: float) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(0).normal(size=(100, 12))
    values = (centers[labels] + noise * generator.normal(size=(len(labels), 12))).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def _distances(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    return np.sqrt(np.sum((gallery.astype(np.float64) - query) ** 2, axis=1))


@pytest.mark.parametrize("has_gallery", [False, True])
def test_nearest_of_other_classes_and_confusions_equal_plain_loops(has_gallery: bool) -> None:
    labels = np.random.default_rng(1).integers(7, size=150) * 3
    gallery_labels = np.random.default_rng(2).integers(8, size=90) * 3 if has_gallery else labels
    queries = _embeddings(labels, 3, 1.2)
    gallery = _embeddings(gallery_labels, 4, 1.2) if has_gallery else queries
    rows, distances = outcomes.nearest_of_other_classes(
        Gallery(gallery, gallery_labels), queries, labels
    )
    scores = metrics.score_queries(
        queries, labels, *((gallery, gallery_labels) if has_gallery else ()), ks=(1,)
    )
    is_found = scores["recall_at_1"] == 1
    confused: dict[int, list[int]] = collections.defaultdict(list)
    for i, (query, label) in enumerate(zip(queries, labels, strict=True)):
        far = _distances(query, gallery)
        if not has_gallery:
            far[i] = np.inf
        others = np.flatnonzero(gallery_labels != label)
        assert rows[i] == others[np.argmin(far[others])]
        assert distances[i] == far[rows[i]]
        assert is_found[i] == (gallery_labels[np.argmin(far)] == label)
        if not is_found[i]:
            confused[label].append(gallery_labels[np.argmin(far)])
    found = outcomes.recall_by_class(labels, is_found, gallery_labels[rows])
    assert [x.recall_at_1 for x in found] == sorted(x.recall_at_1 for x in found)
    assert sorted(x.label for x in found) == np.unique(labels).tolist()
    for recall in found:
        of_class = labels == recall.label
        assert recall.num_queries == of_class.sum()
        assert recall.recall_at_1 == pytest.approx(is_found[of_class].mean())
        counts = collections.Counter(confused[recall.label])
        most = max(counts.values())
        assert recall.confused_with == min(x for x in counts if counts[x] == most)
        assert recall.share_confused == most / recall.num_queries


def test_a_class_that_is_never_missed_is_confused_with_none() -> None:
    labels = np.array([4, 4, 9])
    (missed, found) = outcomes.recall_by_class(
        labels, np.array([True, True, False]), np.array([9, 9, 4])
    )
    assert missed == (9, 1, 0.0, 4, 1.0)
    assert found == (4, 2, 1.0, -1, 0.0)
    (only,) = outcomes.recall_by_class(labels[:2], np.ones(2, bool), np.array([9, 9]))
    assert only.confused_with == -1


def test_planted_wrong_labels_and_duplicates_are_suspected_and_nothing_else() -> None:
    labels = np.repeat(np.arange(40), 10)
    embeddings = _embeddings(labels, 5, 0.5)
    copies = {3: 207, 110: 391, 15: 160}  # image: one of another class
    for image, copy in copies.items():
        noise = 1e-4 * np.random.default_rng(image).normal(size=12)
        embeddings[copy] = embeddings[image] + noise.astype(np.float32)
    gallery = Gallery(embeddings, labels)
    rows, distances = outcomes.nearest_of_other_classes(gallery, embeddings, labels)
    _, nearest = gallery.nearest(embeddings, 1, self_rows=np.arange(400))
    farthest = outcomes.suspect_distance(nearest[:, 0], 400, 10.0)
    pairs = outcomes.suspects(rows, distances, farthest=farthest, is_same_set=True)
    assert {tuple(sorted(pair)) for pair in pairs.tolist()} == set(copies.items())
    assert len(pairs) == 3
    far = [distances[i] for i, _ in pairs]
    assert far == sorted(far)
    twice = outcomes.suspects(rows, distances, farthest=farthest, is_same_set=False)
    assert len(twice) == 6


def test_nothing_is_suspected_where_there_is_no_other_class() -> None:
    rows, distances = np.array([-1, -1]), np.array([np.inf, np.inf])
    assert outcomes.suspect_distance(distances, 2, 3.0) == 0
    assert outcomes.suspect_distance(np.zeros(2), 2, 0.0) == 0
    assert not len(outcomes.suspects(rows, distances, farthest=0.0, is_same_set=True))


def test_worst_and_best_queries_are_of_different_classes_as_long_as_there_are_such() -> None:
    precisions = np.array([0.0, 0.0, 1.0, 0.5, np.nan, 0.0, 1.0])
    distances = np.array([0.3, 0.2, 0.9, 0.5, 0.1, 0.4, 0.8])
    labels = np.array([0, 0, 1, 1, 2, 3, 3])
    worst = outcomes.worst_queries(precisions, distances, labels, 5)
    assert worst.tolist() == [1, 5, 3, 0, 6]
    best = outcomes.best_queries(precisions, distances, labels, 4)
    assert best.tolist() == [2, 6, 0, 3]
    assert len(outcomes.worst_queries(precisions, distances, labels, 50)) == 6


def test_the_distance_of_suspects_holds_half_a_query_by_chance() -> None:
    # Of points that are uniform in 3 dimensions, 0.5 pairs are expected in each of 40 draws.
    counts = []
    for seed in range(40):
        points = np.random.default_rng(seed).random((1000, 3)).astype(np.float32)
        _, nearest = Gallery(points).nearest(points, 1, self_rows=np.arange(1000))
        farthest = outcomes.suspect_distance(nearest[:, 0], 1000, 3.0)
        assert farthest == pytest.approx(0.1 * np.median(nearest))
        counts.append(np.sum(nearest[:, 0] <= farthest) / 2)
    assert 0.1 < np.mean(counts) < 1
    assert outcomes.suspect_distance(nearest[:, 0], 1000, 500.0) == np.median(nearest) / 4
