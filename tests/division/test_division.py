"""Divisions: number of clusters, matching with the previous division, bisection, valid clusters."""

import numpy as np
import pytest

from dcjax.core.streams import Stream
from dcjax.distributed import devices
from dcjax.division import division, grouping, host_kmeans
from dcjax.division.division import Division


def _images(num_classes: int = 24, size: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_classes), size)
    centers = 3 * rng.normal(size=(num_classes, 8))
    return centers[labels] + rng.normal(size=(len(labels), 8)), labels


def _places(num_places: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images at few points, 6 classes at each, which K-means finds from any start."""
    labels = np.repeat(np.arange(6 * num_places), 6)
    return 3 * np.random.default_rng(0).normal(size=(num_places, 8))[labels // 36], labels


def _as_division(cluster: list[int] | np.ndarray, num_clusters: int) -> Division:
    return Division(np.array(cluster, np.int32), np.arange(num_clusters, dtype=np.int32), 0)


def _classes_with_two(result: Division, labels: np.ndarray) -> list[int]:
    """Counts per cluster the classes with two images, in a plain loop."""
    return [
        sum(np.sum(labels[result.cluster == k] == c) >= 2 for c in np.unique(labels))
        for k in range(result.num_clusters)
    ]


@pytest.mark.parametrize(
    ("every", "largest", "epochs", "expected"),
    [
        (2, 32, [*range(13), 10**6], [1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32, 32, 32]),
        (10, 4, [0, 9, 10, 19, 20, 29, 30], [1, 1, 2, 2, 4, 4, 4]),
    ],
)
def test_number_of_clusters_equals_golden_numbers(every, largest, epochs, expected):
    options = {"divide_every_epochs": every, "max_clusters": largest}
    got = [division.num_clusters_at(e, hierarchy="progressive", **options) for e in epochs]
    assert got == expected
    assert division.num_clusters_at(0, hierarchy="direct", **options) == largest


@pytest.mark.parametrize("num_clusters", [2, 3, 5, 8, 16, 32])
@pytest.mark.parametrize("score", ["iou", "overlap"])
def test_match_undoes_any_relabelling(num_clusters, score):
    rng = np.random.default_rng(num_clusters)
    previous = rng.integers(num_clusters, size=40 * num_clusters)
    relabelled = rng.permutation(num_clusters)[previous]
    np.testing.assert_array_equal(
        division.match(relabelled, previous, num_clusters, score), previous
    )


def test_match_of_a_permuted_partition_agrees_on_every_image():
    previous = np.array([0, 0, 0, 1, 1, 2])
    rotated = (previous + 1) % 3
    np.testing.assert_array_equal(division.match(rotated, previous, 3, "iou"), previous)


def test_match_withstands_noise_and_dropped_images():
    rng = np.random.default_rng(0)
    previous = rng.integers(8, size=400)
    current = rng.permutation(8)[previous]
    current[:40] = rng.integers(8, size=40)
    previous[40:80] = -1
    current[80:90] = -1
    matched = division.match(current, previous, 8, "iou")
    np.testing.assert_array_equal(matched[90:], previous[90:])
    np.testing.assert_array_equal(matched[80:90], -1)


def test_matching_by_iou_and_by_overlap_can_differ():
    # Images in both:   previous 0  previous 1     IoU:
    #   current 0           20          10         20/40 10/31
    #   current 1           10           1         10/31  1/21
    # By overlap the cluster numbers stay (20 + 1 > 10 + 10), by IoU they swap (0.65 > 0.55).
    current = np.repeat([0, 0, 1, 1], [20, 10, 10, 1])
    previous = np.repeat([0, 1, 0, 1], [20, 10, 10, 1])
    np.testing.assert_array_equal(division.match(current, previous, 2, "overlap"), current)
    np.testing.assert_array_equal(division.match(current, previous, 2, "iou"), 1 - current)


def test_divide_bisects_inside_the_parents():
    features, labels = _images()
    features += 100 * (labels % 2)[:, None]
    first = division.single_cluster(labels, period=0)
    second = division.divide(features, labels, first, num_clusters=2, period=1, seed=0)
    third = division.divide(features, labels, second, num_clusters=4, period=2, seed=0)
    again = division.divide(features, labels, second, num_clusters=2, period=2, seed=0)
    np.testing.assert_array_equal(second.parents, [0, 0])
    np.testing.assert_array_equal(third.parents, [0, 0, 1, 1])
    kept = third.cluster >= 0
    np.testing.assert_array_equal(third.cluster[kept] // 2, again.cluster[kept])
    assert third.period == 2
    assert np.all(third.sizes > 0)
    assert division.agreement(third, second) > 0.6


def test_divide_again_keeps_the_order_of_the_clusters():
    features, labels = _places(4)
    first = division.divide(features, labels, None, num_clusters=4, period=0, seed=0)
    renamed = np.array([2, 0, 3, 1, -1])[first.cluster]
    second = division.divide(
        features, labels, _as_division(renamed, 4), num_clusters=4, period=1, seed=0
    )
    np.testing.assert_array_equal(first.parents, [0, 0, 0, 0])
    np.testing.assert_array_equal(second.parents, [0, 1, 2, 3])
    np.testing.assert_array_equal(second.cluster, renamed)


@pytest.mark.parametrize("on_devices", [False, True])
def test_kmeans_from_the_previous_centers_finds_what_lloyd_finds_from_them(on_devices):
    features, labels = _images()
    previous = division.divide(features, labels, None, num_clusters=4, period=0, seed=0)
    moved = features + np.random.default_rng(1).normal(scale=0.3, size=features.shape)
    kept = previous.cluster >= 0
    centers = [moved[kept & (previous.cluster == c)].mean(axis=0) for c in range(4)]
    expected, _ = host_kmeans.lloyd(
        np.asarray(moved, np.float32), np.asarray(centers, np.float32), num_iterations=100
    )
    options = {
        "num_clusters": 4,
        "period": 1,
        "mesh": devices.create_mesh() if on_devices else None,
    }
    found = [
        division.divide(moved, labels, previous, start="previous", seed=seed, **options)
        for seed in (0, 1)
    ]
    for x in found:  # no random image has a part in it
        renamed = division.match(expected, previous.cluster, 4, "iou")
        np.testing.assert_array_equal(x.cluster, grouping.drop_singletons(renamed, labels))
    random = [division.divide(moved, labels, previous, seed=seed, **options) for seed in (0, 1)]
    assert any(not np.array_equal(x.cluster, found[0].cluster) for x in random)


def test_kmeans_starts_at_random_images_where_a_previous_cluster_is_empty():
    features, labels = _images()
    empty = _as_division(np.where(labels % 2 == 0, 0, 2), 4)
    found, expected = (
        division.divide(features, labels, empty, start=start, num_clusters=4, period=1, seed=0)
        for start in ("previous", "random")
    )
    np.testing.assert_array_equal(found.cluster, expected.cluster)


def test_divide_is_deterministic():
    features, labels = _images()
    previous = division.single_cluster(labels, period=0)
    first, second = (
        division.divide(features, labels, previous, num_clusters=2, period=1, seed=3)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.cluster, second.cluster)


def test_singletons_belong_to_no_cluster():
    # Classes 0 and 1 on the left, 2 and 3 on the right; one image of class 0 went to the right.
    features = np.array([0, 0.1, 0.2, 0.1, 0, 10.0, 10.1, 10.2, 10.1, 9.9])[:, None]
    labels = np.array([0, 0, 1, 1, 1, 2, 2, 3, 3, 0])
    result = division.divide(features, labels, None, num_clusters=2, period=0, seed=0)
    left, right = result.cluster[0], result.cluster[5]
    np.testing.assert_array_equal(result.cluster, [left] * 5 + [right] * 4 + [-1])
    assert result.cluster.dtype == np.int32
    np.testing.assert_array_equal(np.sort(result.sizes), [4, 5])


def test_undivided_excludes_classes_of_one_image():
    result = division.single_cluster(np.array([0, 1, 1, 2, 2, 2]), period=4)
    np.testing.assert_array_equal(result.cluster, [-1, 0, 0, 0, 0, 0])
    assert (result.num_clusters, result.period) == (1, 4)


def test_kmeans_is_retried_until_every_cluster_has_two_classes():
    # After the first trial, one cluster has only a single class with two images.
    rng = np.random.default_rng(7)
    labels = np.repeat(np.arange(6), 4)
    features = rng.normal(size=(24, 2)) + 1.5 * rng.normal(size=(6, 2))[labels]

    def divide(num_trials: int, seed: int) -> Division:
        options = {"num_clusters": 3, "period": 0, "seed": seed, "num_trials": num_trials}
        return division.divide(features, labels, None, **options)

    assert min(_classes_with_two(divide(1, seed=0), labels)) < 2
    assert min(_classes_with_two(divide(30, seed=0), labels)) >= 2
    np.testing.assert_array_equal(divide(30, seed=0).cluster, divide(2, seed=0).cluster)
    assert np.any(divide(2, seed=0).cluster != divide(1, seed=1).cluster)


def test_last_trial_is_kept_if_none_succeeds():
    # A single class can never fill two clusters with two classes each.
    features = np.random.default_rng(0).normal(size=(12, 2))
    labels = np.zeros(12, np.int32)
    result = division.divide(features, labels, None, num_clusters=2, period=0, seed=7, num_trials=3)
    last, _ = host_kmeans.kmeans(features, 2, seed=(7, Stream.DIVISION, 0, 0, 2))
    kept = result.cluster >= 0
    np.testing.assert_array_equal(result.cluster[kept], last[kept])


def test_cluster_of_one_image_can_be_bisected():
    features, labels = np.array([[0.0], [0.1], [0.2], [9.0]]), np.array([0, 0, 0, 1])
    previous = _as_division([0, 0, 0, 1], 2)
    result = division.divide(features, labels, previous, num_clusters=4, period=1, seed=0)
    assert result.cluster[3] == -1
    assert set(result.cluster[:3]) <= {-1, 0, 1}


def test_agreement_counts_only_images_in_both_divisions():
    first = _as_division([0, 0, 1, 1, 1, -1], 2)
    second = _as_division([1, 1, 0, 0, -1, 0], 2)
    assert division.agreement(second, first) == pytest.approx(1.0)
    children = _as_division([0, 1, 2, 3, -1, 0], 4)
    assert division.agreement(children, first) == pytest.approx(2 / 3)


def test_check_accepts_what_can_be_divided():
    labels = np.repeat(np.arange(8), 2)
    division.check(labels, max_clusters=4, hierarchy="progressive")
    for num_clusters in (1, 2, 3, 4):
        division.check(labels, max_clusters=num_clusters, hierarchy="direct")
    with pytest.raises(ValueError, match=r"at least 16 .*got 8; choose division.max_clusters <= 4"):
        division.check(labels, max_clusters=8, hierarchy="progressive")
    few = np.arange(8).repeat([2, 2, 2, 2, 1, 1, 1, 1])
    with pytest.raises(ValueError, match="got 4"):
        division.check(few, max_clusters=4, hierarchy="progressive")
    with pytest.raises(
        ValueError, match=r"power of two, .* or any number >= 1 with division.hierarchy=di"
    ):
        division.check(labels, max_clusters=3, hierarchy="progressive")
    with pytest.raises(ValueError, match="got max_clusters=0"):
        division.check(labels, max_clusters=0, hierarchy="direct")


@pytest.mark.parametrize(("hierarchy", "others"), [("progressive", 2), ("direct", 3)])
def test_check_suggests_a_number_of_clusters_that_the_hierarchy_allows(hierarchy, others):
    # Super-classes of 3, 2 and 3 classes: middles at 3/16, 1/2, 13/16; none falls into 1 of 4.
    labels, super_classes = np.repeat(np.arange(8), 2), np.repeat([0, 1, 2], [6, 4, 6])
    with pytest.raises(ValueError, match=f"them; choose division.max_clusters={others} or"):
        division.check(labels, max_clusters=4, hierarchy=hierarchy, super_classes=super_classes)


def test_random_groups_are_matched_and_bisected_like_those_of_kmeans():
    labels = np.repeat(np.arange(4), 200)
    previous, sizes = division.single_cluster(labels, period=0), []
    for period, num_clusters in enumerate((2, 4, 4), start=1):
        options = {"num_clusters": num_clusters, "period": period, "seed": 0}
        divided = division.divide(None, labels, previous, **options)
        again = division.divide(None, labels, previous, **options)
        np.testing.assert_array_equal(divided.cluster, again.cluster)
        # No other numbering of the clusters agrees more with the previous one.
        current = previous.num_clusters
        parents = divided.parents[divided.cluster]
        matched = division.match(parents, previous.cluster, current, "iou")
        np.testing.assert_array_equal(matched, parents)
        sizes.append(divided.sizes.tolist())
        assert division.agreement(divided, previous) < 0.01  # a new draw
        previous = divided
    assert sizes == [[400] * 2, [200] * 4, [200] * 4]


@pytest.mark.parametrize("start", [1, 3])
def test_super_classes_are_divided_inside_their_parents(start):
    rng = np.random.default_rng(0)
    super_classes = np.repeat(np.arange(24), rng.integers(8, 13, 24))
    labels = 2 * super_classes + rng.integers(2, size=len(super_classes))

    def divide(previous: Division | None, num_clusters: int) -> Division:
        return division.divide_by_super_class(
            super_classes, labels, previous, num_clusters=num_clusters, period=num_clusters
        )

    first = divide(None, start)
    np.testing.assert_array_equal(first.parents, np.zeros(start))
    second = divide(first, 2 * start)
    np.testing.assert_array_equal(second.parents, np.repeat(np.arange(start), 2))
    np.testing.assert_array_equal(second.parents[second.cluster], first.cluster)
    third = divide(second, 2 * start)
    np.testing.assert_array_equal(third.parents, np.arange(2 * start))
    np.testing.assert_array_equal(third.cluster, second.cluster)


def test_singletons_in_a_cluster_of_super_classes_belong_to_no_cluster():
    labels, super_classes = np.array([0, 0, 1, 2, 2, 3]), np.array([0, 0, 0, 1, 1, 1])
    result = division.divide_by_super_class(super_classes, labels, None, num_clusters=2, period=0)
    np.testing.assert_array_equal(result.cluster, [0, 0, -1, 1, 1, -1])


def test_errors_name_the_value():
    features, labels = _images()
    previous = division.single_cluster(labels, period=0)
    with pytest.raises(ValueError, match="1 or 2, got num_clusters=4"):
        division.divide(features, labels, previous, num_clusters=4, period=1, seed=0)
    with pytest.raises(ValueError, match="Unknown matching 'jaccard'; known are iou, over"):
        division.match(labels, labels, 24, score="jaccard")
    with pytest.raises(ValueError, match="Unknown hierarchy 'flat'"):
        division.num_clusters_at(0, divide_every_epochs=2, max_clusters=4, hierarchy="flat")
    with pytest.raises(ValueError, match="got 3 and 144 rows"):
        division.divide(features[:3], labels, None, num_clusters=2, period=0, seed=0)
    with pytest.raises(ValueError, match="1 or 2, got num_clusters=3"):
        division.divide_by_super_class(labels, labels, previous, num_clusters=3, period=1)
