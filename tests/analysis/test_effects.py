"""What a division does to learning, against plain loops and sets of which the figures are known."""

import itertools
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from dcjax.analysis import effects
from dcjax.distributed import sharded_rows
from dcjax.division import masks as masking
from dcjax.division import sampling
from dcjax.division.division import Division, single_cluster

_BATCHES = {
    "sampler": "balanced",
    "batch_size": 12,
    "images_per_class": 2,
    "small_class": "other",
}


def _division(cluster: np.ndarray, num_clusters: int) -> Division:
    return Division(cluster.astype(np.int32), np.zeros(num_clusters, np.int32), 3)


def _random(num_images: int = 90) -> tuple[Division, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.integers(6, size=num_images)
    features = generator.normal(size=(num_images, 5)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return _division(generator.integers(-1, 3, size=num_images), 3), labels, features


def _mean_nearest(features: np.ndarray, labels: np.ndarray, batches: np.ndarray) -> float:
    nearest = []
    for rows in batches:
        for i in rows:
            others = [j for j in rows if labels[j] != labels[i]]
            nearest += [min(np.linalg.norm(features[i] - features[j]) for j in others)]
    return float(np.mean(nearest))


@pytest.mark.parametrize("sampler", ["balanced", "uniform"])
def test_nearest_negatives_are_those_of_batches_as_epochs_draw_them(
    sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    division, labels, features = _random()
    drawn, draw = [], sampling.sample_batches

    def observed(*args: Any, **options: Any) -> np.ndarray:
        drawn.append(draw(*args, **options))
        return drawn[-1]

    monkeypatch.setattr(sampling, "sample_batches", observed)
    monkeypatch.setattr(effects, "_NUM_IN_BATCHES", 360)  # 30 batches
    options = _BATCHES | {"sampler": sampler}
    found = effects.feature_figures(division, labels, features, seed=0, **options)
    whole, inside = drawn
    expected = _mean_nearest(features, labels, inside) / _mean_nearest(features, labels, whole)
    assert found["nearest_negative_ratio"] == pytest.approx(expected, rel=1e-5)
    assert all(len(set(division.cluster[rows].tolist())) == 1 for rows in inside)
    assert sorted(np.bincount(division.cluster[inside[:, 0]])) == [10, 10, 10]
    assert len(set(division.cluster[whole[0]].tolist())) > 1
    again = effects.feature_figures(division, labels, features, seed=0, **options)
    assert found == again
    other = effects.feature_figures(division, labels, features, seed=1, **options)
    assert found["nearest_negative_ratio"] != other["nearest_negative_ratio"]


def test_negatives_are_nearer_or_farther_by_a_known_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "_NUM_IN_BATCHES", 24_000)
    # Classes 0 and 1 are 0.5 apart, as are 2 and 3; those of different pairs are 10 on average.
    labels = np.repeat(np.arange(4), 24)
    points = np.float32([[0], [0.5], [10], [10.5]])[labels]
    near, far = _division(labels // 2, 2), _division(labels % 2, 2)

    def ratio(division: Division, images_per_class: int) -> float:
        options = _BATCHES | {"images_per_class": images_per_class}
        found = effects.feature_figures(division, labels, points, seed=0, **options)
        return found["nearest_negative_ratio"]

    # Of two random classes, a third of the pairs are near.
    assert ratio(near, 6) == pytest.approx(0.5 / (0.5 / 3 + 10 * 2 / 3), rel=0.03)
    # Batches of all four classes always hold a near one.
    assert ratio(near, 3) == pytest.approx(1)
    assert ratio(far, 3) == pytest.approx(20)


def test_one_cluster_changes_nothing() -> None:
    _, labels, features = _random()
    whole = single_cluster(labels, period=0)
    found = effects.feature_figures(whole, labels, features, seed=0, **_BATCHES)
    assert found["nearest_negative_ratio"] == 1
    assert found["variance_within"] == pytest.approx(1)


def test_without_negatives_there_is_no_ratio() -> None:
    labels = np.repeat([0, 1], 20)
    division = _division(labels, 2)
    points = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    found = effects.feature_figures(division, labels, points, seed=0, **_BATCHES)
    assert np.isnan(found["nearest_negative_ratio"])
    assert found["variance_within"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("apart", "share"), [(True, 1), (False, 0)])
def test_clusters_separate_all_positive_pairs_or_none(apart: bool, share: float) -> None:
    labels = np.repeat(np.arange(10), 2)
    cluster = np.arange(20) % 2 if apart else labels % 2
    figures = effects.label_figures(_division(cluster, 2), labels)
    assert figures["separated_pairs"] == share
    assert figures["classes_per_cluster"] == (10 if apart else 5)


def test_clusters_without_images_do_not_count_as_clusters_without_classes() -> None:
    figures = effects.label_figures(_division(np.array([0, 0, 2, 2]), 4), np.array([0, 1, 1, 1]))
    assert figures["classes_per_cluster"] == 1.5


def test_variance_within_clusters_equals_a_plain_loop() -> None:
    division, _, features = _random()
    is_in = division.cluster >= 0
    features, cluster = features[is_in] + 100, division.cluster[is_in]
    within = sum(
        float(np.sum((features[cluster == k] - features[cluster == k].mean(axis=0)) ** 2))
        for k in range(3)
    )
    total = float(np.sum((features - features.mean(axis=0)) ** 2))
    expected = within / (len(cluster) - 3) / (total / (len(cluster) - 1))
    assert effects.variance_within(features, cluster) == pytest.approx(expected, rel=1e-4)
    assert effects.variance_within(features, np.zeros(len(features))) == pytest.approx(1)
    assert effects.variance_within(np.float32([[0], [0], [9], [9]]), np.array([4, 4, 7, 7])) == 0
    assert np.isnan(effects.variance_within(features[:3], np.arange(3)))
    assert np.isnan(effects.variance_within(np.ones((4, 2), np.float32), np.arange(4) // 2))


def test_variance_of_a_sample_is_about_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    cluster = generator.integers(20, size=4000)
    features = generator.normal(size=(20, 8))[cluster] + generator.normal(size=(4000, 8))
    labels, features = generator.integers(9, size=4000), features.astype(np.float32)
    division = _division(cluster, 20)
    shares = []
    for size in (4000, 400):
        monkeypatch.setattr(effects, "_NUM_IMAGES", size)
        figures = effects.feature_figures(division, labels, features, seed=0, **_BATCHES)
        shares.append(figures["variance_within"])
    complete, part = shares
    assert complete == pytest.approx(effects.variance_within(features, cluster), abs=0.02)
    assert part == pytest.approx(complete, rel=0.1)
    assert part != complete


def test_features_on_devices_have_the_same_figures() -> None:
    division, labels, features = _random(91)
    mesh = Mesh(np.array(jax.devices()), ("device",))
    sharded = sharded_rows.shard(features, mesh)
    on_host, on_devices = (
        effects.feature_figures(division, labels, x, seed=0, **_BATCHES)
        for x in (features, sharded)
    )
    assert on_host == on_devices


def test_cosine_of_masks_is_the_mean_over_all_pairs() -> None:
    masks = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    masks[1] = -1  # relu leaves nothing of it
    expected = float(masking.orthogonality(masks, 3))
    found = effects.mask_figures(masks, 3)["mask_cosine"]
    assert found == pytest.approx(expected, rel=1e-6)
    assert not effects.mask_figures(masks, 1)


def test_subspaces_of_few_dimensions_are_found() -> None:
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(500, 12)).astype(np.float32)
    masks = np.zeros((4, 12), np.float32)
    masks[0, :4] = masks[1, 4:8] = 1
    found = effects.subspace_figures(embeddings, 500, masks, 2, kind="sum")
    assert 3.8 < found["subspace_dimension"] <= 4


def test_sampled_batches_come_from_all_clusters_equally_often() -> None:
    _, labels, _ = _random()
    division = _division(np.arange(90) % 40, 40)
    generator = np.random.default_rng(0)
    batches = [
        sampling.sample_batches(division, labels, generator, num_batches=8, **_BATCHES)
        for _ in range(200)
    ]
    counts = np.bincount(division.cluster[np.concatenate(batches)[:, 0]], minlength=40)
    assert counts.min() > 15  # 40 expected
    assert counts.max() < 70
    whole = sampling.sample_batches(
        single_cluster(labels, period=0), labels, generator, num_batches=3, **_BATCHES
    )
    for rows in whole:
        pairs = itertools.combinations(rows, 2)
        assert sum(labels[i] == labels[j] for i, j in pairs) == 6  # two images of six classes
