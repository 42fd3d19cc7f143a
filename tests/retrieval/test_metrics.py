"""Retrieval metrics against golden numbers and hand-computed scores."""

from pathlib import Path

import numpy as np
import pytest
from slow_retrieval import slow_score, slow_score_one_per_class

from dcjax.distributed import devices, sharded_rows
from dcjax.retrieval import metrics, ranking

_GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "retrieval.npz")


def _golden(case: str) -> dict[str, float]:
    names = [name for name in _GOLDEN.files if name.startswith(f"{case}/")]
    return {name.removeprefix(f"{case}/"): float(_GOLDEN[name]) for name in names}


def _with_ties(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings on a small grid, so that most distances occur many times exactly."""
    rng = np.random.default_rng(seed)
    return rng.integers(-1, 2, (num, 3)).astype(np.float32), rng.integers(12, size=num)


def test_all_against_all_scores_equal_golden_numbers():
    scores = metrics.score(_GOLDEN["embeddings"], _GOLDEN["labels"], ks=(1, 2, 4, 8, 10, 100))
    assert scores == pytest.approx(_golden("all"), abs=1e-12)


def test_query_and_gallery_scores_equal_golden_numbers():
    embeddings, labels = _GOLDEN["embeddings"], _GOLDEN["labels"]
    query, gallery = _GOLDEN["query_index"], _GOLDEN["gallery_index"]
    scores = metrics.score(
        embeddings[query],
        labels[query],
        embeddings[gallery],
        labels[gallery],
        ks=(1, 10, 20, 30, 50),
    )
    assert scores == pytest.approx(_golden("query_gallery"), abs=1e-12)


def test_marp_paper_divides_by_hits_and_map_at_r_by_r():
    # One query; its four relevant images are nearest, third, fifth and sixth: hits 1, 0, 1, 0.
    gallery, labels = np.arange(1.0, 7.0)[:, None], np.array([5, 1, 5, 1, 5, 5])
    scores = metrics.score(np.zeros((1, 1)), np.array([5]), gallery, labels, ks=(1,))
    assert scores["marp_paper"] == pytest.approx(5 / 6)
    assert scores["map_at_r"] == pytest.approx(5 / 12)
    assert scores["r_precision"] == pytest.approx(1 / 2)


@pytest.mark.parametrize("seed", range(4))
def test_ties_are_ordered_by_index(seed):
    queries, query_labels = _with_ties(40, seed)
    gallery, labels = _with_ties(70, 100 + seed)
    ks = (1, 2, 5, 39)
    assert metrics.score(queries, query_labels, gallery, labels, ks=ks) == pytest.approx(
        slow_score(queries, query_labels, gallery, labels, ks), abs=1e-12
    )
    assert metrics.score(queries, query_labels, ks=ks) == pytest.approx(
        slow_score(queries, query_labels, None, None, ks), abs=1e-12
    )


def test_duplicate_of_the_query_is_searched():
    # Rows 0 and 1 are the same picture, in one class in the first case and in two in the second.
    embeddings = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    same = metrics.score(embeddings, np.array([0, 0, 1, 1]), ks=(1,))
    crossed = metrics.score(embeddings, np.array([0, 1, 0, 1]), ks=(1, 3))
    assert same["recall_at_1"] == 1.0
    assert crossed["recall_at_1"] == 0.0
    assert crossed["recall_at_3"] == 1.0


def test_embeddings_need_not_be_normalised():
    # By angle, image 2 is the nearest of image 0; by distance, image 1 is.
    embeddings = np.array([[1.0, 0], [1, 0.5], [9, 0.1], [-5, 0], [-5, 1], [-5, 2]])
    scores = metrics.score(embeddings, np.array([0, 0, 1, 2, 2, 1]), ks=(1,))
    assert scores["recall_at_1"] == pytest.approx(4 / 6)


@pytest.mark.parametrize("block", [1, 7, 32, 1000])
def test_block_size_does_not_change_the_scores(block):
    embeddings, labels = _with_ties(65, 3)
    assert metrics.score(embeddings, labels, block=block) == metrics.score(embeddings, labels)


def test_number_of_devices_does_not_change_the_scores():
    embeddings, labels = _with_ties(65, 3)
    shared = metrics.score(embeddings, labels, block=4, mesh=devices.create_mesh())
    assert shared == metrics.score(embeddings, labels)


def test_scores_equal_those_of_float64_far_from_the_origin_and_near_it():
    random = np.random.default_rng(0)
    labels = random.integers(30, size=200)
    x = random.normal(size=(30, 16))[labels] + random.normal(size=(200, 16))
    mesh, ks = devices.create_mesh(), (1, 2, 4, 8)
    for embeddings in (x + 1e4, 1580 + 0.01 * x, 1e-5 * x + x[0], 1e-20 * x, 1e-30 * x, 1e30 * x):
        embeddings = embeddings.astype(np.float32)
        exact = embeddings.astype(np.float64)
        expected = slow_score(exact, labels, None, None, ks)
        assert metrics.score(embeddings, labels) == pytest.approx(expected, abs=1e-12)
        shared = sharded_rows.place(embeddings, mesh)
        assert metrics.score(shared, labels, mesh=mesh) == pytest.approx(expected, abs=1e-12)
        expected = slow_score_one_per_class(exact, labels, ks, 3)
        actual = metrics.score_one_per_class(embeddings, labels, ks=ks, num_draws=3)
        assert actual == pytest.approx(expected, abs=1e-12)


def test_recall_counts_k_beyond_the_size_of_a_class():
    # A query among 500 images of other classes, all as near as its positive or nearer.
    gallery = np.array([1.0] * 250 + [3.0] * 250 + [3.0])[:, None]
    labels = np.array([0] * 500 + [1])
    scores = metrics.score(np.zeros((1, 1)), np.array([1]), gallery, labels, ks=(1, 500, 501))
    assert scores == {
        "recall_at_1": 0.0,
        "recall_at_500": 0.0,
        "recall_at_501": 1.0,
        "map_at_r": 0.0,
        "marp_paper": 0.0,
        "r_precision": 0.0,
    }


def test_queries_without_positives_miss_but_have_no_precision():
    embeddings, labels = np.array([[0.0], [0.1], [5.0], [5.1]]), np.array([0, 0, 1, 2])
    scores = metrics.score(embeddings, labels, ks=(1,))
    assert scores == {
        "recall_at_1": 0.5,
        "map_at_r": 1.0,
        "marp_paper": 1.0,
        "r_precision": 1.0,
    }
    alone = metrics.score(embeddings, np.arange(4), ks=(3,))
    assert set(alone.values()) == {0.0}


def test_large_labels_stay_distinct():
    embeddings = np.array([[0.0], [0.1], [5.0], [5.1]])
    labels = 2**53 + np.array([0, 1, 0, 1], dtype=np.int64)
    assert metrics.score(embeddings, labels, ks=(1,))["recall_at_1"] == 0.0


def test_one_per_class_gallery_includes_classes_of_one_image():
    # Classes 1 and 2 lie between the images of class 0, each of which is a query and gallery once.
    embeddings = np.array([[0.0], [4.0], [1.0], [3.0]])
    scores = metrics.score_one_per_class(
        embeddings, np.array([0, 0, 1, 2]), ks=(1, 2, 3), num_draws=5
    )
    assert scores == {
        "recall_at_1": 0.0,
        "recall_at_2": 0.0,
        "recall_at_3": 1.0,
        "map_at_r": 0.0,
        "marp_paper": 0.0,
        "r_precision": 0.0,
    }


def test_one_per_class_draws_every_image_equally_often():
    embeddings = np.array([[9.0], [0.0], [0.1], [0.2], [8.0]])
    labels = np.array([0, 0, 0, 0, 1])
    scores = metrics.score_one_per_class(embeddings, labels, ks=(1,), num_draws=1000)
    # Three queries miss image 0, and image 0 misses the others: the mean is 2/3 or, in one draw
    # of four, 0; of 1000 draws it deviates by 0.29 / sqrt(1000).
    assert scores["recall_at_1"] == pytest.approx(3 / 4 * 2 / 3, abs=3 * 0.29 / 1000**0.5)


def test_all_draws_share_one_compilation():
    embeddings, labels = _with_ties(331, 8)
    metrics.score_one_per_class(embeddings, labels, ks=(1,), num_draws=1)
    before = ranking._rank._cache_size()
    metrics.score_one_per_class(embeddings, labels, ks=(1,), num_draws=4)
    assert ranking._rank._cache_size() == before


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 0, 1, 1], {"num_draws": 0}, "num_draws >= 1 .*, got num_draws=0 and 2 images"),
        ([0, 1, 2, 3], {}, "a class of two images, .*and 1 images in the largest class"),
        ([0, 0, 1, 1], {"ks": (1, 3)}, "1 <= k <= 2, the images that a query can retrieve"),
        ([0, 0, 1], {}, "Labels of embeddings must be 4 integers"),
    ],
)
def test_one_per_class_errors_name_the_invalid_argument(labels, options, message):
    options = {"ks": (1,), "num_draws": 2} | options
    with pytest.raises(ValueError, match=message):
        metrics.score_one_per_class(np.zeros((4, 3)), np.array(labels), **options)


@pytest.mark.parametrize(
    ("queries", "labels", "options", "message"),
    [
        (np.zeros(4), np.zeros(4, int), {}, r"shape \[N, D\], not empty, got \(4,\)"),
        (np.zeros((0, 3)), np.zeros(0, int), {}, r"got \(0, 3\)"),
        (np.zeros((4, 3)), np.zeros(5, int), {}, "must be 4 integers"),
        (np.zeros((4, 3)), np.zeros(4), {}, "of float64"),
        (np.array([[0.0], [np.nan], [1], [2]]), np.zeros(4, int), {}, "1 rows, first in row 1"),
        (np.array([[0.0], [1], [1e39], [2]]), np.zeros(4, int), {}, "1 rows, first in row 2"),
        (np.zeros((4, 3)), np.zeros(4, int), {"ks": (1, 4)}, "1 <= k <= 3"),
        (np.zeros((4, 3)), np.zeros(4, int), {"ks": (0,)}, r"got ks=\(0,\)"),
        (np.zeros((4, 3)), np.zeros(4, int), {"ks": ()}, r"got ks=\(\)"),
        (np.zeros((4, 3)), np.zeros(4, int), {"ks": (1,), "block": 0}, "block=0"),
        (np.zeros((4, 3)), np.zeros(4, int), {"gallery": np.zeros((9, 3))}, "together or neither"),
        (
            np.zeros((4, 3)),
            np.zeros(4, int),
            {"gallery": np.zeros((9, 2)), "gallery_labels": np.zeros(9, int)},
            "same embedding size, got 3 and 2",
        ),
    ],
)
def test_errors_name_the_invalid_argument(queries, labels, options, message):
    with pytest.raises(ValueError, match=message):
        metrics.score(queries, labels, **options)
