"""Re-identification: images of a query's class and camera are left out, against a plain version."""

import jax
import numpy as np
import pytest
from slow_retrieval import JUNK, slow_market_scores

from dcjax.core.errors import InputError
from dcjax.distributed import devices, sharded_rows
from dcjax.retrieval import evaluation, metrics, near_ties


def _draw(seed: int, *, num: int, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns embeddings on a small grid, most of whose distances tie, classes and cameras."""
    rng = np.random.default_rng(seed)
    embeddings = rng.integers(-1, 2, (num, 3)).astype(np.float32)
    return embeddings, rng.integers(0, num_classes, num), rng.integers(1, 4, num)


def _distances(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    return np.sum((queries[:, None].astype(np.float64) - gallery) ** 2, axis=2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_devices", [1, 8])
def test_scores_are_those_of_the_published_evaluation(
    seed: int, num_devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_ties, "_DISTANCES_PER_BLOCK", 7 * 80)  # few queries at a time
    queries, labels, cameras = _draw(seed, num=30, num_classes=12)
    gallery, searched, seen = _draw(100 + seed, num=90, num_classes=14)
    searched[::9] = JUNK
    searched[1::11] = 99  # distractors, which no query looks for
    ks = (1, 5, 10)
    slow = slow_market_scores(_distances(queries, gallery), (labels, searched), (cameras, seen), ks)
    real = searched != JUNK
    scores = metrics.score(
        queries,
        labels,
        gallery[real],
        searched[real],
        ks=ks,
        cameras=[cameras, seen[real]],
        mesh=devices.create_mesh(jax.devices()[:num_devices]),
    )
    assert scores == pytest.approx(slow, abs=1e-12)
    assert scores["map_at_r"] < scores["map"] < scores["recall_at_5"]


def test_queries_without_an_answer_from_another_camera_count_nowhere() -> None:
    queries = np.zeros((3, 2), np.float32)
    gallery = np.float32([[0, 1], [0, 2], [0, 3], [0, 4]])
    labels, searched = np.array([1, 2, 7]), np.array([1, 2, 1, 3])
    cameras = [np.array(["a", "a", "a"]), np.array(["a", "a", "b", "a"])]
    by_query = metrics.score_queries(queries, labels, gallery, searched, ks=(1, 2), cameras=cameras)
    # Query 0 has its own view nearest, which is passed over; the other one comes second.
    assert by_query["recall_at_1"].tolist()[0] == 0
    assert by_query["recall_at_2"].tolist()[0] == 1
    assert by_query["map"][0] == 1 / 2
    # Query 1 has an image of its class from its own camera alone, and query 2 none.
    assert all(np.isnan(values[1:]).all() for values in by_query.values())
    assert metrics.mean(by_query)["recall_at_2"] == 1


def test_images_search_all_others_but_those_of_their_class_and_camera() -> None:
    embeddings, labels, cameras = _draw(5, num=60, num_classes=8)
    distances = _distances(embeddings, embeddings)
    slow = slow_market_scores(distances, (labels, labels), (cameras, cameras), (1, 3))
    rows = sharded_rows.place(embeddings, devices.create_mesh()).values
    scores = evaluation.evaluate(
        [rows], [labels], ks=(1, 3), nmi_runs=0, gallery_draws=0, cameras=[cameras]
    )
    assert scores == pytest.approx(slow, abs=1e-12)


def test_distinct_distances_are_ranked_without_sorting_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(near_ties, "_candidates")
    rng = np.random.default_rng(1)
    queries, gallery = rng.normal(size=(25, 8)), rng.normal(size=(120, 8)).astype(np.float32)
    queries = queries.astype(np.float32)
    labels, searched = rng.integers(0, 6, 25), rng.integers(0, 6, 120)
    cameras = [rng.integers(0, 3, 25), rng.integers(0, 3, 120)]
    slow = slow_market_scores(_distances(queries, gallery), (labels, searched), cameras, (1, 9))
    scores = metrics.score(queries, labels, gallery, searched, ks=(1, 9), cameras=cameras)
    assert scores == pytest.approx(slow, abs=1e-12)


def test_images_equally_far_but_for_rounding_are_ordered_as_in_float64() -> None:
    # Two images have the same numbers in another order; the first is right.
    rng = np.random.default_rng(0)
    query, cameras = np.zeros((1, 40), np.float32), [np.zeros(1), np.ones(2)]
    found, expected = [], []
    for _ in range(40):
        gallery = rng.permuted(np.tile(rng.normal(size=40), (2, 1)), axis=1).astype(np.float32)
        labels = np.zeros(1, int), np.arange(2)
        found.append(metrics.score(query, labels[0], gallery, labels[1], ks=(1,), cameras=cameras))
        expected.append(slow_market_scores(_distances(query, gallery), labels, cameras, (1,)))
    assert [x["recall_at_1"] for x in found] == [x["recall_at_1"] for x in expected]
    assert 0.2 < np.mean([x["recall_at_1"] for x in found]) < 0.95


def test_cameras_of_other_images_are_refused() -> None:
    embeddings, labels, cameras = _draw(0, num=10, num_classes=2)
    for wrong in ([cameras[:9]], [cameras, cameras], []):
        with pytest.raises(InputError, match="a camera for each image"):
            metrics.score(embeddings, labels, cameras=wrong)
