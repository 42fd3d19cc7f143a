"""Distance-weighted sampling of negatives and positives."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dcjax import losses
from dcjax.division import masks
from dcjax.losses import distance_weighting, mining
from dcjax.losses.pairs import Comparisons, as_pairs

DIRECTORY = Path(__file__).parents[1] / "golden"
REFERENCE = json.loads((DIRECTORY / "reference.json").read_text())
CASES = np.load(DIRECTORY / "losses.npz")
CUTOFFS = {"cutoff": 0.5, "upper": 1.4}


def _count_draws(
    key: jax.Array, distances: jax.Array, labels: jax.Array, *, dim: int
) -> tuple[jax.Array, jax.Array]:
    """Draws among the images of a batch, and counts how often each pair was drawn."""
    negatives = labels[:, None] != labels[None, :]
    positives = ~negatives & ~jnp.eye(len(labels), dtype=bool)
    triplets = distance_weighting.draw(key, distances, positives, negatives, dim=dim, **CUTOFFS)
    return as_pairs(triplets, Comparisons(distances, distances, distances, positives, negatives))


_pairs = jax.jit(_count_draws)


def _distances(num_images: int, dim: int, seed: int = 0) -> jax.Array:
    x = np.random.default_rng(seed).standard_normal((num_images, dim))
    return losses.pairwise_distances(masks.l2_normalize(jnp.asarray(x, jnp.float32)))


def _draw(distances: jax.Array, labels: list[int], dim: int, seed: int = 0) -> list[np.ndarray]:
    pairs = _pairs(jax.random.key(seed), distances, jnp.array(labels), dim=dim)
    return [np.asarray(p, int) for p in pairs]


@pytest.mark.parametrize("dim", [6, 64, 512])
def test_probabilities_agree_with_reference_weights(dim: int) -> None:
    labels = np.repeat(np.arange(4), 2)
    # The reference gives positives beyond the upper cutoff a weight; here it is 0.
    different = labels[:, None] != labels[None, :]
    weights = np.array(REFERENCE[f"dws_weights_ndims{dim}"]) * different
    expected = weights / weights.sum(axis=1, keepdims=True)
    distances = jnp.array(REFERENCE["pdist"])
    probabilities = mining.distance_weighted_probabilities(
        distances, jnp.array(labels), dim=dim, **CUTOFFS
    )
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)


@pytest.mark.parametrize("case", ["balanced", "uneven", "pairs_d512"])
def test_probabilities_agree_with_golden_numbers(case: str) -> None:
    embeddings = masks.l2_normalize(jnp.array(CASES[f"{case}/embeddings"]))
    probabilities = jax.jit(mining.distance_weighted_probabilities)(
        losses.pairwise_distances(embeddings),
        CASES[f"{case}/labels"],
        dim=embeddings.shape[1],
        **CUTOFFS,
    )
    expected = CASES[f"{case}/distance_weighted_probability"]
    np.testing.assert_allclose(probabilities, expected, rtol=3e-4)


def test_negatives_are_drawn_by_their_probabilities() -> None:
    labels, dim, num_draws = [0, 0, 1, 1, 2, 2, 3, 3], 4, 20_000
    x = jax.random.uniform(
        jax.random.key(1), (8, dim)
    )  # in one orthant, all distances are below the upper cutoff
    distances = losses.pairwise_distances(masks.l2_normalize(x))
    probabilities = mining.distance_weighted_probabilities(
        distances, jnp.array(labels), dim=dim, **CUTOFFS
    )

    def draw(key: jax.Array) -> jax.Array:
        return _count_draws(key, distances, jnp.array(labels), dim=dim)[1]

    keys = jax.random.split(jax.random.key(0), num_draws)
    counts = np.asarray(jnp.sum(jax.lax.map(draw, keys, batch_size=1000), axis=0))
    expected = np.asarray(probabilities, np.float64) * num_draws
    assert np.all(counts[expected == 0] == 0)
    assert np.all(expected[expected > 0] > 5)
    for row in range(8):
        negative = expected[row] > 0
        means = expected[row, negative] * num_draws / expected[row].sum()
        assert stats.chisquare(counts[row, negative], means).pvalue > 1e-4


@pytest.mark.parametrize("case", ["balanced", "uneven", "pairs_d512"])
def test_first_draws_follow_the_golden_probabilities(case: str) -> None:
    embeddings, labels = CASES[f"{case}/embeddings"], CASES[f"{case}/labels"]
    distances = losses.pairwise_distances(masks.l2_normalize(embeddings))
    negatives = jnp.asarray(labels[:, None] != labels[None, :])
    num_draws = 10_000

    def first(key: jax.Array) -> jax.Array:
        dim = embeddings.shape[1]
        drawn = distance_weighting.draw(key, distances, ~negatives, negatives, dim=dim, **CUTOFFS)
        return drawn.negatives[:, 0]

    keys = jax.random.split(jax.random.key(3), num_draws)
    first_negatives = np.asarray(jax.jit(lambda k: jax.lax.map(first, k, batch_size=1000))(keys))
    pvalues = []
    for row, probabilities in enumerate(CASES[f"{case}/distance_weighted_probability"]):
        counts = np.bincount(first_negatives[:, row], minlength=len(labels))
        assert np.all(counts[probabilities == 0] == 0)
        # The chi-squared test needs five or more draws in each cell: unlikely cells are merged.
        order = np.argsort(-probabilities)
        means, observed = np.float64(probabilities[order]) * num_draws, counts[order]
        last = np.sum(means >= 5) - 1
        cells = [(x[:last], x[last:].sum()) for x in (observed, means)]
        observed, means = (np.append(*cell) for cell in cells)
        if last:
            pvalues.append(stats.chisquare(observed, means * num_draws / means.sum()).pvalue)
        else:
            assert observed == num_draws
    assert min(pvalues) > 1e-4 / len(pvalues)


@pytest.mark.parametrize("seed", range(5))
def test_near_duplicate_does_not_crowd_out_other_negatives(seed: int) -> None:
    # At 512 dimensions the density at distance 0.1 is e^-350 of that at 1.4.
    labels = np.repeat(np.arange(10), 4)
    x = np.random.default_rng(seed).standard_normal((40, 512))
    x[4] = x[0] + 1e-3
    distances = losses.pairwise_distances(masks.l2_normalize(jnp.asarray(x, jnp.float32)))
    _, negatives = _draw(distances, labels.tolist(), 512, seed)
    np.testing.assert_array_equal(negatives.sum(axis=1), 3)
    assert negatives.max() == 1
    assert np.all(negatives[labels[:, None] == labels[None, :]] == 0)
    assert negatives[0, 4] == 1
    assert negatives[4, 0] == 1


def test_each_anchor_with_a_positive_draws_as_many_negatives() -> None:
    # 5, 3, 2 and 1 images of a class: (20 + 6 + 2) / 11 positives on average, so q = 3.
    labels = np.array([0] * 5 + [1] * 3 + [2] * 2 + [3])
    same = labels[:, None] == labels[None, :]
    distances, positive_counts = _distances(11, 8), np.zeros((11, 11))
    for seed in range(30):
        positives, negatives = _draw(distances, labels.tolist(), 8, seed)
        positive_counts += positives
        assert np.all(positives[~same] == 0)
        assert np.all(np.diag(positives) == 0)
        np.testing.assert_array_equal(positives.sum(axis=1), [3] * 10 + [0])
        np.testing.assert_array_equal(negatives.sum(axis=1), [3] * 10 + [0])
        assert positives[:5].max() == 1  # more positives than q: a subset is drawn
        assert positives[8, 9] == 3  # fewer than q: positives are repeated
    assert np.all(
        positive_counts[same & ~np.eye(11, dtype=bool)] > 0
    )  # every positive is drawn at some time


def test_exactly_q_positives_are_each_drawn_once() -> None:
    labels = np.repeat(np.arange(4), 3)
    positives, _ = _draw(_distances(12, 8), labels.tolist(), 8)
    np.testing.assert_array_equal(positives, np.kron(np.eye(4), 1 - np.eye(3)))


@pytest.mark.parametrize(
    ("labels", "num_draws"),
    [
        ([0, 0, 1, 2], 1),  # 0.5 positives on average: rounds up
        ([0, 0, 1, 2, 3], 1),  # 0.4: at least 1
        ([0] * 5 + [1], 1),  # 20 / 6, but only one image of another class
        ([0, 0, 0, 0, 1, 1, 2, 2], 2),  # (12 + 2 + 2) / 8
        ([0, 0, 0], 0),  # no negatives
    ],
)
def test_number_of_draws_is_the_rounded_mean_of_positives(
    labels: list[int], num_draws: int
) -> None:
    _, negatives = _draw(_distances(len(labels), 4), labels, 4)
    assert negatives[0].sum() == num_draws


def test_pairs_are_a_function_of_the_key_also_under_jit() -> None:
    distances, labels = _distances(12, 8), jnp.repeat(jnp.arange(3), 4)
    plain = _count_draws(jax.random.key(1), distances, labels, dim=8)
    for seed, equal in [(1, True), (2, False)]:
        drawn = _pairs(jax.random.key(seed), distances, labels, dim=8)
        assert all(np.array_equal(a, b) for a, b in zip(plain, drawn, strict=True)) == equal


def test_opposite_embeddings_give_no_nan_inside_the_probabilities() -> None:
    beyond = np.nextafter(np.float32(2), np.float32(3))
    distances = jnp.where(jnp.eye(3, dtype=bool), 0.01, beyond)
    with jax.debug_nans(True):
        probabilities = mining.distance_weighted_probabilities(
            distances, jnp.arange(3), dim=512, **CUTOFFS
        )
    np.testing.assert_allclose(probabilities, (1 - np.eye(3)) / 2, rtol=1e-6)


def test_effective_dim_counts_coordinates_that_any_row_uses() -> None:
    assert distance_weighting.effective_dim(jnp.array([[0.0, 1, 0, 0], [0.0, 0, 2, 0]])) == 2


def test_probabilities_keep_the_precision_of_the_distances() -> None:
    labels = jnp.array([0, 0, 1, 1])
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            distances = _distances(4, 6).astype(dtype)
            weights = mining.distance_weighted_probabilities(distances, labels, dim=6, **CUTOFFS)
            assert weights.dtype == dtype
