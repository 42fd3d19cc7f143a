"""Miners pick the same pairs and triplets as plain loops."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcjax.division import masks
from dcjax.losses import mining
from dcjax.losses.pairs import Pairs, References, Triplets, as_pairs, compare
from tests import slow_losses

REFERENCE = json.loads((Path(__file__).parents[1] / "golden" / "reference.json").read_text())
LABELS = [0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4]
KEY = jax.random.key(0)


def _embeddings(seed: int) -> np.ndarray:
    # In three dimensions, some positives are farther than all negatives, and some are not.
    return np.random.default_rng(seed).standard_normal((len(LABELS), 3))


def _list_triplets(mined: Pairs | Triplets) -> list[tuple[int, int, int]]:
    assert isinstance(mined, Triplets)
    rows, slots = np.nonzero(mined.valid)
    positives, negatives = (np.asarray(c)[rows, slots] for c in mined[:2])
    return sorted(zip(rows.tolist(), positives.tolist(), negatives.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("semi_hard", {"fallback": "farthest"}),
        ("semi_hard", {"fallback": "none"}),
        ("hard", {}),
        ("easy_positive", {"easy_negatives": "semi_hard", "fallback": "farthest"}),
        ("easy_positive", {"easy_negatives": "semi_hard", "fallback": "none"}),
        ("easy_positive", {"easy_negatives": "hard", "fallback": "farthest"}),
        ("nearest", {"cutoff": 0.9}),
    ],
)
def test_triplets_equal_those_of_plain_loops(name: str, options: dict[str, Any], seed: int) -> None:
    x = _embeddings(seed)
    batch = slow_losses.Batch(x.tolist(), LABELS)
    compared = compare(masks.l2_normalize(jnp.asarray(x)), jnp.array(LABELS))
    mined = jax.jit(mining.create(name, **options))(KEY, compared)
    assert _list_triplets(mined) == sorted(getattr(slow_losses, f"mine_{name}")(batch, **options))


@pytest.mark.parametrize("seed", range(3))
def test_multi_similarity_pairs_equal_those_of_plain_loops(seed: int) -> None:
    x = _embeddings(seed)
    batch = slow_losses.Batch(x.tolist(), LABELS)
    compared = compare(masks.l2_normalize(jnp.asarray(x)), jnp.array(LABELS))
    mined = jax.jit(mining.create("multi_similarity", epsilon=0.1))(KEY, compared)
    expected = slow_losses.mine_multi_similarity(batch, 0.1)
    for actual, pairs in zip(mined, expected, strict=True):
        assert list(map(tuple, np.argwhere(actual).tolist())) == sorted(pairs)


def test_nearest_agrees_with_reference() -> None:
    i, j = np.ogrid[:8, :6]
    raw = jnp.asarray(np.sin(1.3 * i * i + 0.7 * j + i * j), jnp.float32)
    compared = compare(masks.l2_normalize(raw), jnp.repeat(jnp.arange(4), 2))
    triplets = _list_triplets(mining.create("nearest", cutoff=0.5)(KEY, compared))
    assert [n for _, _, n in triplets] == REFERENCE["easypeasy_neg_index"]


@pytest.mark.parametrize("name", ["semi_hard", "hard", "easy_positive", "nearest"])
def test_miners_pick_references_of_a_memory(name: str) -> None:
    """A batch of two with a memory that holds nearer images and one empty slot."""
    options = {
        "semi_hard": {"fallback": "farthest"},
        "easy_positive": {"easy_negatives": "semi_hard", "fallback": "farthest"},
        "nearest": {"cutoff": 0.1},
    }
    angles = np.array([0.0, 1.0, 0.5, 0.7, 0.6])
    x = jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    memory = References(x[2:], jnp.array([0, 1, -1]))
    compared = compare(x[:2], jnp.array([0, 1]), memory)
    mined = mining.create(name, **options.get(name, {}))(KEY, compared)
    # Anchor 0: its positive is 2, its negatives are 1 and 3. Anchor 1: 3, and 0 and 2.
    assert _list_triplets(mined) == [(0, 2, 3), (1, 3, 2)]
    positives, negatives = as_pairs(mined, compared)
    np.testing.assert_array_equal(positives, [[0, 0, 1, 0, 0], [0, 0, 0, 1, 0]])
    np.testing.assert_array_equal(negatives, [[0, 0, 0, 1, 0], [0, 0, 1, 0, 0]])


def test_distance_weighted_draws_include_a_memory() -> None:
    rng = np.random.default_rng(0)
    x = masks.l2_normalize(jnp.asarray(rng.standard_normal((24, 4))))
    memory = References(x[8:], jnp.arange(16) % 4)
    compared = compare(x[:8], jnp.arange(8) // 2, memory)
    miner = mining.create("distance_weighted", dims="full", cutoff=0.5, upper_cutoff=1.4)
    positives, negatives = as_pairs(miner(KEY, compared), compared)
    # Five positives on average: one in the batch, four in the memory.
    np.testing.assert_array_equal(positives.sum(axis=1), np.full(8, 5))
    np.testing.assert_array_equal(negatives.sum(axis=1), np.full(8, 5))
    assert not np.any((positives > 0) & ~compared.positives)
    assert not np.any((negatives > 0) & ~compared.negatives)
    assert positives[:, 8:].sum() > 16
    assert negatives[:, 8:].sum() > 16


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("softest", {}, "Unknown miner 'softest'; known are all, distance_weighted, easy_positive"),
        (
            "nearest",
            {"cut": 1.0},
            "'cut' of miner 'nearest'; known options are cutoff; the nearest",
        ),
        ("hard", {"cutoff": 1.0}, "'cutoff' of miner 'hard'; known options are none"),
        ("semi_hard", {"fallback": "any"}, "Unknown fallback 'any'; known are farthest, none"),
        ("nearest", {"cutoff": 3.0}, "cutoff of at least 0 and at most 2, got 3.0"),
        (
            "distance_weighted",
            {"dims": "half", "cutoff": 0.5, "upper_cutoff": 1.4},
            "dims 'half'; known are full, active",
        ),
        (
            "distance_weighted",
            {"dims": "full", "cutoff": 1.5, "upper_cutoff": 1.4},
            "cutoff=1.5 and upper_cutoff=1.4",
        ),
    ],
)
def test_errors_name_the_value_and_the_alternatives(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mining.create(name, **options)
