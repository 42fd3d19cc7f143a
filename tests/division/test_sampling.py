"""Sampling: plans of epochs, drawn from the images of each cluster."""

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dcjax.division import sampling
from dcjax.division.division import Division
from dcjax.division.sampling import Plan


def _division(cluster: np.ndarray, period: int = 0) -> Division:
    num_clusters = int(cluster.max()) + 1
    return Division(cluster.astype(np.int32), np.zeros(num_clusters, np.int32), period)


def _plan(cluster: np.ndarray, labels: np.ndarray, period: int = 0, **changes: Any) -> Plan:
    options = {"sampler": "uniform", "batch_size": 8, "seed": 0, "epoch": 0} | changes
    return sampling.plan_epoch(_division(cluster, period), labels, **options)


def _clustered(sizes: tuple[int, ...], num_classes: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Returns cluster and class of each image; every cluster has images of every class."""
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    return cluster, np.concatenate([np.arange(size) % num_classes for size in sizes])


def test_uniform_draws_each_image_once():
    cluster, labels = _clustered((67,))
    plan = _plan(cluster, labels)
    assert plan.rows.shape == (8, 1, 8)
    assert plan.rows.dtype == plan.clusters.dtype == np.int32
    assert len(np.unique(plan.rows)) == 64
    left_out = {
        int(row)
        for e in range(5)
        for row in set(range(67)) - set(_plan(cluster, labels, epoch=e).rows.ravel().tolist())
    }
    assert len(left_out) > 3


@pytest.mark.parametrize(("large", "small", "batch_size"), [(5000, 2, 80), (36, 4, 4), (40, 1, 8)])
def test_uniform_draws_images_of_small_classes_as_often_as_others(large, small, batch_size):
    n = large + small
    labels = np.repeat([0, 1], [large, small])
    cluster = np.concatenate(
        [np.zeros(n), np.ones(5 * n)]
    )  # so that the first cluster starts again
    plans = [
        _plan(cluster, np.resize(labels, 6 * n), batch_size=batch_size, epoch=epoch)
        for epoch in range(20)
    ]
    in_walk = n // batch_size * batch_size
    times = np.zeros(n)
    for plan in plans:
        drawn = plan.rows[plan.clusters == 0].ravel()
        walks = drawn[: len(drawn) // in_walk * in_walk].reshape(-1, in_walk)
        assert len(walks) >= 5
        assert all(len(np.unique(walk)) == in_walk for walk in walks)
        times += np.bincount(drawn, minlength=n)
    # Only the remainder of a pass, which fills no batch, differs.
    np.testing.assert_allclose(times[large:].mean(), times.mean(), rtol=0.06)


@pytest.mark.parametrize("sampler", ["uniform", "balanced"])
def test_one_class_share_predicts_the_share_of_drawn_batches(sampler):
    # Of each cluster: how many images its classes have, and the share of 8 images in a batch.
    sizes = [(60, 4), (9, 8), (30, 30), (40,), (5,), (4, 1)]
    cluster = np.repeat(np.arange(len(sizes)), [sum(counts) for counts in sizes])
    labels = np.concatenate([np.repeat(np.arange(len(counts)), counts) for counts in sizes])
    shares = sampling.one_class_shares(_division(cluster), labels, batch_size=8, sampler=sampler)
    expected = [
        sum(math.comb(c, 8) for c in counts) / math.comb(sum(counts), 8)
        for counts in (sizes if sampler == "uniform" else [])[:3]
    ]
    np.testing.assert_allclose(shares, [*(expected or [0] * 3), 1, 1, 0], rtol=1e-12)
    counts = np.zeros((2, len(sizes)))
    for epoch in range(200):
        plan = _plan(cluster, labels, sampler=sampler, epoch=epoch)
        of_one = np.ptp(labels[plan.rows[:, 0]], axis=1) == 0
        np.add.at(counts, (of_one.astype(int), plan.clusters[:, 0]), 1)
    np.testing.assert_allclose(counts[1] / counts.sum(axis=0), shares, atol=0.04)


def test_cluster_without_images_has_no_one_class_batches():
    shares = sampling.one_class_shares(
        _division(np.array([2, 2, 2, -1])), np.zeros(4, int), batch_size=4, sampler="uniform"
    )
    np.testing.assert_array_equal(shares, [0, 0, 1])


@pytest.mark.parametrize("rounds", ["min", "mean", "max"])
@pytest.mark.parametrize("sampler", ["uniform", "balanced"])
def test_images_left_out_of_an_epoch_are_drawn_in_others(rounds, sampler):
    cluster, labels = _clustered((75, 9, 25))
    drawn = [
        _plan(cluster, labels, rounds=rounds, sampler=sampler, epoch=epoch).rows
        for epoch in range(80)
    ]
    assert len(np.unique(drawn)) == len(cluster)


@pytest.mark.parametrize("cluster_order", sampling.CLUSTER_ORDERS)
@pytest.mark.parametrize("clusters_per_step", [1, 2, 4, 5])
def test_clusters_are_visited_equally_often_over_epochs(cluster_order, clusters_per_step):
    cluster, labels = _clustered((8, 8, 8))
    visits = np.zeros(3)
    for epoch in range(60):
        plan = _plan(
            cluster,
            labels,
            epoch=epoch,
            cluster_order=cluster_order,
            clusters_per_step=clusters_per_step,
        )
        visits += np.bincount(plan.clusters.ravel(), minlength=3)
    near = 0 if cluster_order == "round_robin" else 0.25
    np.testing.assert_allclose(visits / visits.mean(), 1, atol=near)


def test_balanced_holds_m_images_of_each_class():
    cluster, labels = _clustered((80, 96))
    plan = _plan(cluster, labels, sampler="balanced")
    for batch in plan.rows.reshape(-1, 8):
        assert len(np.unique(batch)) == 8
        assert np.unique(labels[batch], return_counts=True)[1].tolist() == [2, 2, 2, 2]


def test_balanced_draws_every_image_of_a_class_before_repeating_one():
    labels = np.repeat(np.arange(4), 6)
    rows = _plan(np.zeros(24), labels, sampler="balanced").rows
    assert rows.shape == (3, 1, 8)
    np.testing.assert_array_equal(np.sort(rows.ravel()), np.arange(24))


def test_uniform_reshuffles_a_cluster_after_each_pass():
    cluster, labels = _clustered((96, 16))
    plan = _plan(cluster, labels)
    passes = plan.rows[plan.clusters == 1].reshape(6, 16)
    np.testing.assert_array_equal(np.sort(passes, axis=1), [np.arange(96, 112)] * 6)
    assert len(np.unique(passes, axis=0)) == 6


def test_balanced_reshuffles_each_class_after_each_pass():
    # Classes of 2 to 9 images give 2 at a time: an odd number leaves one over in every pass.
    sizes = np.repeat(np.arange(2, 10), 3)
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(24), sizes))
    large = np.arange(2000) % 2
    cluster = np.repeat([0, 1], [len(labels), len(large)])
    plan = _plan(cluster, np.concatenate([labels, large]), sampler="balanced")
    rows = plan.rows[plan.clusters == 0]
    assert rows.shape == (250, 8)
    for c, size in enumerate(sizes.tolist()):
        shown = rows[labels[rows] == c]
        in_walk = size // 2 * 2
        walks = shown[: len(shown) // in_walk * in_walk].reshape(-1, in_walk)
        assert len(walks) >= 5
        assert all(len(np.unique(walk)) == in_walk for walk in walks)
        assert len(np.unique(walks, axis=0)) > 1
        assert len(np.unique(walks)) == size


@pytest.mark.parametrize("num_classes", [7, 50])
def test_balanced_draws_classes_and_their_images_equally_often(num_classes):
    sizes = 3 + np.arange(num_classes) % 5
    labels = np.repeat(np.arange(num_classes), sizes)
    large = np.arange(40000) % 2
    cluster = np.repeat([0, 1], [len(labels), len(large)])
    plan = _plan(cluster, np.concatenate([labels, large]), sampler="balanced")
    rows = plan.rows[plan.clusters == 0]
    drawn = np.bincount(labels[rows].ravel(), minlength=num_classes) / 2
    # Four different classes in each batch: less noise than independent draws.
    noise = (1 - 4 / num_classes) * num_classes / (num_classes - 1)
    expected = 4 * len(rows) / num_classes
    statistic = np.sum((drawn - expected) ** 2) / expected / noise
    assert 1e-3 < stats.chi2.sf(statistic, num_classes - 1) < 1 - 1e-3
    # The pairs of images of the largest classes are equally random, but balanced within each pass.
    shown = np.bincount(rows.ravel(), minlength=len(labels)) / (2 * drawn / sizes)[labels]
    assert np.all(np.abs(shown - 1) < 0.15)


@pytest.mark.parametrize("num_images", [20, 60, 2000])
def test_filler_images_are_drawn_equally_often(num_images):
    # Nearly all classes have one image: half of each batch is filled up.
    labels = np.maximum(np.arange(num_images), 3)
    counts = np.zeros(num_images)
    num_batches = 0
    for epoch in range(200):
        rows = _plan(
            np.zeros(num_images),
            labels,
            batch_size=16,
            sampler="balanced",
            epoch=epoch,
        ).rows.reshape(-1, 16)
        assert np.all(np.diff(np.sort(rows, axis=1), axis=1))
        counts += np.bincount(rows.ravel(), minlength=num_images)
        num_batches += len(rows)
    filler_counts = counts[4:]
    expected = filler_counts.mean()
    share = expected / num_batches
    n = len(filler_counts)
    statistic = np.sum((filler_counts - expected) ** 2) / expected / (1 - share)
    assert 1e-3 < stats.chi2.sf(statistic, n - 1) < 1 - 1e-3


@pytest.mark.parametrize("sampler", ["uniform", "balanced"])
@pytest.mark.parametrize("images_at_once", [1, 150, 10**6])
def test_steps_do_not_depend_on_block_size_or_first_step(sampler, images_at_once):
    cluster, labels = _clustered((80, 25, 5, 61), num_classes=12)
    cluster[::9] = -1
    options = {"sampler": sampler, "clusters_per_step": 2}
    expected = _plan(cluster, labels, **options)
    plan = _plan(cluster, labels, images_at_once=images_at_once, **options)
    assert plan.shape == expected.rows.shape == (16, 2, 8)
    for first_step in range(plan.num_steps):
        rows, clusters = (
            np.concatenate(parts)
            for parts in zip(*(b[:2] for b in plan.blocks(first_step)), strict=True)
        )
        np.testing.assert_array_equal(rows, expected.rows[first_step:])
        np.testing.assert_array_equal(clusters, expected.clusters[first_step:])
    assert len(list(plan.blocks())) == {1: 16, 150: 2, 10**6: 1}[images_at_once]
    assert not list(plan.blocks(plan.num_steps))


@pytest.mark.parametrize("sampler", ["uniform", "balanced"])
def test_blocks_of_millions_of_images_need_little_memory(sampler):
    n = 2 * 10**6
    rng = np.random.default_rng(0)
    labels = rng.integers(n // 10, size=n, dtype=np.int32)
    division = Division((labels % 8).astype(np.int32), np.zeros(8, np.int32), 0)
    tracemalloc.start()
    plan = sampling.plan_epoch(
        division, labels, batch_size=80, images_per_class=4, seed=0, epoch=0, sampler=sampler
    )
    num_images = sum(block.rows.size for block in plan.blocks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_images > 0.99 * n
    # Two orders of the images, memory for sorting, and one block: never a complete plan.
    assert peak < {"uniform": 4, "balanced": 7}[sampler] * 4 * n


@pytest.mark.parametrize("sampler", ["uniform", "balanced"])
@pytest.mark.parametrize("cluster_order", ["shuffled", "round_robin", "uniform"])
def test_batches_hold_only_images_of_their_cluster_and_no_dropped_ones(sampler, cluster_order):
    cluster, labels = _clustered((40, 25, 61))
    cluster[::9] = -1
    plan = _plan(cluster, labels, sampler=sampler, cluster_order=cluster_order)
    np.testing.assert_array_equal(
        cluster[plan.rows], np.broadcast_to(plan.clusters[..., None], plan.rows.shape)
    )


@pytest.mark.parametrize("sampler", ["uniform", "balanced"])
def test_cluster_smaller_than_a_batch_repeats_images(sampler):
    cluster, labels = _clustered((32, 5), num_classes=2)
    plan = _plan(cluster, labels, sampler=sampler)
    small = plan.rows[plan.clusters == 1]
    assert small.shape == (4, 8)
    for batch in small:
        np.testing.assert_array_equal(np.unique(batch), np.arange(32, 37))


def test_small_cluster_repeats_images_only_after_using_all():
    labels = np.array([0, 1, 2, 3, 4, 5, 5] + [0, 1] * 8)
    cluster = np.repeat([0, 1], [7, 16])
    plan = _plan(cluster, labels, sampler="balanced")
    for batch in plan.rows[plan.clusters == 0]:
        np.testing.assert_array_equal(np.unique(batch), np.arange(7))


def test_small_classes_are_filled_up_with_other_images():
    # Classes 0-3 have one image only, class 4 has many.
    labels = np.array([0, 1, 2, 3] + [4] * 20)
    rows = _plan(np.zeros(24), labels, batch_size=6, sampler="balanced").rows
    for batch in rows.reshape(-1, 6):
        assert len(np.unique(batch)) == 6


def test_small_classes_repeat_their_own_images():
    labels = np.array([0, 1, 2, 3] + [4] * 20)
    options = {"batch_size": 6, "sampler": "balanced", "small_class": "repeat"}
    rows = _plan(np.zeros(24), labels, **options).rows
    for batch in rows.reshape(-1, 6):
        classes, counts = np.unique(labels[batch], return_counts=True)
        assert len(classes) == 3
        assert counts.tolist() == [2, 2, 2]
        assert len(np.unique(batch)) == (4 if 4 in classes else 3)


def test_few_classes_give_more_images_each():
    labels = np.repeat(np.arange(3), 12)
    rows = _plan(np.zeros(36), labels, sampler="balanced").rows
    counts = [np.bincount(labels[batch], minlength=3) for batch in rows.reshape(-1, 8)]
    assert {tuple(np.sort(count)) for count in counts} == {(2, 3, 3)}
    assert len({tuple(count) for count in counts}) > 1


def test_cluster_orders_are_round_robin_shuffled_or_uniform():
    cluster, labels = _clustered((80, 64, 48, 72))
    orders = {
        name: _plan(cluster, labels, cluster_order=name).clusters.reshape(-1, 4)
        for name in sampling.CLUSTER_ORDERS
    }
    np.testing.assert_array_equal(orders["round_robin"], [[0, 1, 2, 3]] * 10)
    np.testing.assert_array_equal(np.sort(orders["shuffled"], axis=1), [[0, 1, 2, 3]] * 10)
    assert np.any(orders["shuffled"] != orders["round_robin"])
    assert np.any(np.sort(orders["uniform"], axis=1) != [0, 1, 2, 3])


@pytest.mark.parametrize(("rounds", "expected"), [("max", 9), ("mean", 4), ("min", 1)])
def test_rounds_set_the_number_of_batches_per_cluster(rounds, expected):
    cluster, labels = _clustered((75, 5, 25))
    plan = _plan(cluster, labels, rounds=rounds)
    np.testing.assert_array_equal(np.bincount(plan.clusters.ravel()), [expected] * 3)


@pytest.mark.parametrize("cluster_order", sampling.CLUSTER_ORDERS)
@pytest.mark.parametrize("clusters_per_step", [1, 2])
def test_epochs_of_a_number_of_steps_begin_as_others_and_have_these(
    cluster_order, clusters_per_step
):
    cluster, labels = _clustered((75, 5, 25))
    options: Any = {"cluster_order": cluster_order, "clusters_per_step": clusters_per_step}
    usual = _plan(cluster, labels, **options)
    equal = _plan(cluster, labels, epoch_steps=usual.num_steps, **options)
    np.testing.assert_array_equal(equal.clusters, usual.clusters)
    np.testing.assert_array_equal(equal.rows, usual.rows)
    for num_steps in (1, 4, 50):
        plan = _plan(cluster, labels, epoch_steps=num_steps, **options)
        assert plan.num_steps == len(plan.rows) == num_steps
        if cluster_order != "uniform":
            counts = np.bincount(plan.clusters.ravel(), minlength=3)
            assert counts.max() - counts.min() <= 1


def test_images_of_long_epochs_are_drawn_equally_often():
    cluster, labels = _clustered((64, 16))
    plan = _plan(cluster, labels, epoch_steps=48)  # 24 batches of each cluster: 3 and 12 passes
    counts = np.bincount(plan.rows.ravel(), minlength=80)
    np.testing.assert_array_equal(counts, [3] * 64 + [12] * 16)


def test_smaller_clusters_repeat_their_images():
    cluster, labels = _clustered((64, 16))
    plan = _plan(cluster, labels)
    counts = np.bincount(plan.rows.ravel(), minlength=80)
    np.testing.assert_array_equal(counts, [1] * 64 + [4] * 16)


def test_clusters_without_images_are_left_out():
    cluster, labels = _clustered((24, 24))
    plan = _plan(2 * cluster, labels)
    assert set(plan.clusters.ravel()) == {0, 2}
    with pytest.raises(ValueError, match="only empty clusters"):
        sampling.plan_epoch(
            Division(np.full(48, -1, np.int32), np.zeros(2, np.int32), 0),
            labels,
            batch_size=8,
            images_per_class=2,
            seed=0,
            epoch=0,
        )


@pytest.mark.parametrize("sampler", ["uniform", "balanced"])
def test_plan_is_a_function_of_seed_division_and_epoch(sampler):
    cluster, labels = _clustered((40, 30))

    def rows(**changes: int) -> list[int]:
        return _plan(cluster, labels, sampler=sampler, **changes).rows.ravel().tolist()

    assert rows(epoch=3) == rows(epoch=3)
    assert len({tuple(rows(**{name: 1})) for name in ("seed", "epoch", "period")}) == 3
    assert rows() not in [rows(**{name: 1}) for name in ("seed", "epoch", "period")]


@pytest.mark.parametrize(("clusters_per_step", "num_steps"), [(1, 15), (2, 7), (3, 5), (20, 1)])
def test_every_step_has_the_full_number_of_clusters(clusters_per_step, num_steps):
    cluster, labels = _clustered((40, 24, 24))
    plan = _plan(cluster, labels, clusters_per_step=clusters_per_step)
    assert plan.rows.shape == (num_steps, clusters_per_step, 8)
    assert plan.clusters.shape == (num_steps, clusters_per_step)
    if clusters_per_step == 3:
        np.testing.assert_array_equal(np.sort(plan.clusters, axis=1), [[0, 1, 2]] * 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images_per_class": 3}, "got images_per_class=3 and batch_size=8"),
        ({"images_per_class": 8}, "at least twice it"),
        ({"images_per_class": 16}, "got images_per_class=16 and batch_size=8"),
        ({"images_per_class": 0}, "images_per_class=0"),
        ({"batch_size": 1}, "4 <= sampling.batch_size"),
        ({"batch_size": 50}, "batch_size <= 40 images .*got batch_size=50"),
        ({"clusters_per_step": 0}, "clusters_per_step=0"),
        ({"sampler": "npairs"}, "Unknown sampler 'npairs'; known are balanced, uniform"),
        ({"small_class": "skip"}, "known are other, repeat"),
        ({"cluster_order": "sorted"}, "known are round_robin, shuffled, uniform"),
        ({"rounds": "all"}, "known are max, mean, min"),
    ],
)
def test_check_errors_name_the_invalid_setting(changes, message):
    options = {"batch_size": 8, "images_per_class": 2, "sampler": "balanced"}
    sampling.check(np.arange(40), **options)
    with pytest.raises(ValueError, match=message):
        sampling.check(np.arange(40), **(options | changes))


def test_check_and_plan_share_their_default_options():
    sampling.check(np.arange(80))
    with pytest.raises(ValueError, match=r"batch_size <= 79 images .*got batch_size=80"):
        sampling.check(np.arange(79))
    with pytest.raises(ValueError, match="got images_per_class=3 and batch_size=80"):
        sampling.check(np.arange(80), images_per_class=3)
    sampling.check(np.arange(80), images_per_class=3, sampler="uniform")
