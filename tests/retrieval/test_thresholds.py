"""FNMR at FMR against a walk through the sorted list of all pairs."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from dcjax.core.errors import InputError
from dcjax.retrieval import thresholds

_RATES = (0.3, 0.05, 0.01)


def _slow_score(pairs: Sequence[tuple[float, bool]], rates: Sequence[float]) -> dict[str, float]:
    """Finds each threshold among the distances of all pairs (distance, whether of one class)."""
    others = sorted(distance for distance, is_mated in pairs if not is_mated)
    mated = [distance for distance, is_mated in pairs if is_mated]
    scores = {}
    for rate in rates:
        fits = [t for t in others if sum(d < t for d in others) <= rate * len(others)]
        scores[f"fnmr_at_fmr_{rate:g}"] = sum(d >= max(fits) for d in mated) / len(mated)
        scores[f"threshold_at_fmr_{rate:g}"] = max(fits)
    return scores


def _draw(seed: int, num: int, on_a_grid: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns embeddings, on a grid where many distances are equal, classes and cameras."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, num)
    x = rng.normal(size=(6, 3))[labels] + rng.normal(size=(num, 3))
    return np.float32(np.round(x) if on_a_grid else x), labels, rng.integers(0, 3, num)


@pytest.mark.parametrize("on_a_grid", [True, False])
@pytest.mark.parametrize("across_cameras", [True, False])
def test_pairs_of_queries_and_gallery_equal_a_sorted_list(
    on_a_grid: bool, across_cameras: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thresholds, "_DISTANCES_PER_BLOCK", 300)  # few queries at a time
    x, labels, cameras = _draw(0, 25, on_a_grid)
    y, searched, seen = _draw(1, 40, on_a_grid)
    labels[:3] = 9  # whom the gallery does not know
    pairs = [
        (math.dist(x[i], y[j]), labels[i] == searched[j])
        for i, j in itertools.product(range(25), range(40))
        if not (across_cameras and labels[i] == searched[j] and cameras[i] == seen[j])
    ]
    known = [cameras, seen] if across_cameras else None
    scores = thresholds.score(x, labels, y, searched, rates=_RATES, cameras=known)
    assert scores == pytest.approx(_slow_score(pairs, _RATES), abs=1e-9)


@pytest.mark.parametrize("across_cameras", [True, False])
def test_each_pair_of_one_set_counts_once(
    across_cameras: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thresholds, "_DISTANCES_PER_BLOCK", 300)
    x, labels, cameras = _draw(2, 45, True)
    pairs = [
        (math.dist(x[i], x[j]), labels[i] == labels[j])
        for i, j in itertools.combinations(range(45), 2)
        if not (across_cameras and labels[i] == labels[j] and cameras[i] == cameras[j])
    ]
    known = [cameras] if across_cameras else None
    scores = thresholds.score(x, labels, rates=_RATES, cameras=known)
    assert scores == pytest.approx(_slow_score(pairs, _RATES), abs=1e-9)


def test_rates_that_the_pairs_cannot_show_are_refused() -> None:
    x, labels, _ = _draw(0, 10, False)
    with pytest.raises(InputError, match=r"FMR of 0.001 requires 1,000 pairs .*, got 3\d and \d"):
        thresholds.score(x, labels, rates=(0.1, 0.001))
    with pytest.raises(InputError, match=r"one of one class, got 45 and 0"):
        thresholds.score(x, np.arange(10), rates=(0.1,))
