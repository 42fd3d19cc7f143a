"""Streams of random numbers: no two draws of any run share one, and nothing draws outside them."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dcjax.analysis import effects
from dcjax.core import streams
from dcjax.core.streams import DeviceStream, Stream
from dcjax.data import crops, feature_reader, strategies
from dcjax.data.crops import Augmentation
from dcjax.division import device_kmeans, division, host_kmeans, sampling
from dcjax.division.division import Division
from dcjax.experiment.report import draws
from dcjax.retrieval import metrics

_PACKAGE = Path(__file__).parents[2] / "dcjax"
_AUGMENTATION = Augmentation(
    "random_resized", 8, 8, (0.5, 1.0), (0.75, 1.25), flip=True, strategy="geom"
)
# A single class: no trial of a grouping succeeds, so all trials are made.
_LABELS = np.zeros(24, np.int32)
_FEATURES = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)


def _previous() -> Division:
    return Division((np.arange(24) % 2).astype(np.int32), np.zeros(2, np.int32), 0)


def _draw_for_a_run(seed: int) -> None:
    """Makes every draw on the host that a run makes in two periods of two epochs each."""
    for period in (1, 2):
        for features in (_FEATURES, None):
            options = {"num_clusters": 4, "period": period, "seed": seed, "num_trials": 3}
            clusters = division.divide(features, _LABELS, _previous(), **options)
        batches = {"batch_size": 4, "images_per_class": 2, "small_class": "other"}
        effects.feature_figures(
            clusters, _LABELS, _FEATURES, seed=seed, sampler="balanced", **batches
        )
        for epoch in (2 * period, 2 * period + 1):
            plan = sampling.plan_epoch(
                clusters, _LABELS, batch_size=4, images_per_class=2, seed=seed, epoch=epoch
            )
            for block in range(2):
                place: Any = {"seed": seed, "epoch": epoch, "block": block}
                crops.draw(_AUGMENTATION, plan.rows.shape, **place)
                strategies.draw("geom", plan.rows.shape, size=8, **place)
                feature_reader.draw_views(2, plan.rows.shape, **place)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Spawn keys of all generators on the host that are created during the test."""
    spawn_keys: list[tuple[int, ...]] = []
    sequence = np.random.SeedSequence

    def recorded(entropy: Any) -> Any:
        spawn_keys.append(tuple(entropy) if isinstance(entropy, list) else (entropy,))
        return sequence(entropy)

    monkeypatch.setattr(np.random, "SeedSequence", recorded)
    return spawn_keys


def test_no_two_draws_of_any_runs_share_a_stream(keys):
    for seed in range(8):
        _draw_for_a_run(seed)
    metrics.score_one_per_class(_FEATURES, np.arange(24) // 2, ks=[1], num_draws=10)
    for seed in range(10):  # as the NMI score does
        host_kmeans.kmeans(_FEATURES, 3, seed=seed)
    for part in draws.Part:
        draws.generator(part)
    for request in range(3):  # as the search page does
        streams.generator(0, Stream.SEARCH_PAGE, request)
    streams.generator(0, Stream.INTERVALS)  # as a table does
    # Per run: 2 periods of 2 groupings of 1 + 2 parts, three times, and of figures; 4 plans of an
    # order and 4 clusters; 3 draws of 2 blocks of 4 epochs.
    drawn = keys.copy()
    assert len(drawn) == 8 * (36 + 2 + 20 + 24) + 10 + 10 + len(draws.Part) + 3 + 1
    assert {key[1] for key in drawn} == set(Stream)
    states = {tuple(np.random.SeedSequence(list(key)).generate_state(8)) for key in drawn}
    assert len(set(drawn)) == len(states) == len(drawn)


def test_device_keys_and_keys_derived_from_them_all_differ():
    keys = [
        streams.device_key(seed, stream)
        for seed in range(8)
        for stream in (DeviceStream.INITIALIZATION, DeviceStream.TRAINING)
    ]
    # Keys derived from a key: its two halves, and one for each step.
    made = [
        child
        for key in keys
        for child in (key, *jax.random.split(key), *(jax.random.fold_in(key, i) for i in (2, 3)))
    ]
    words = np.stack([np.asarray(jax.random.key_data(key)) for key in made])
    assert len(np.unique(words, axis=0)) == len(made)


def test_standalone_kmeans_starts_from_default_rng_of_its_seed():
    _, centroids = host_kmeans.kmeans(_FEATURES, 5, seed=11, num_iterations=0)
    rows = np.random.default_rng(11).choice(24, 5, replace=False)
    np.testing.assert_array_equal(centroids, _FEATURES[rows])


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64, 1.0, "0", True, None, np.array([0, 1])])
def test_seed_must_be_a_32_bit_integer(seed):
    def plan(**changes: Any) -> Any:
        options = {"batch_size": 4, "images_per_class": 2, "seed": 0, "epoch": 0} | changes
        return sampling.plan_epoch(_previous(), _LABELS, **options)

    for draw in (
        lambda: plan(seed=seed),
        lambda: plan(epoch=seed),
        lambda: host_kmeans.kmeans(_FEATURES, 2, seed=seed),
        lambda: device_kmeans.kmeans(_FEATURES, 2, seed=seed),
        lambda: division.divide(_FEATURES, _LABELS, None, num_clusters=2, period=0, seed=seed),
        lambda: division.divide(None, _LABELS, None, num_clusters=2, period=0, seed=seed),
        lambda: crops.draw(_AUGMENTATION, (2,), seed=seed, epoch=0),
        lambda: strategies.draw("geom", (2,), size=8, seed=0, epoch=seed),
    ):
        with pytest.raises(ValueError, match=r"(seed|epoch), a whole number .* at most 4294967295"):
            draw()
    np.testing.assert_array_equal(plan(seed=np.uint32(7)).rows, plan(seed=7).rows)
    plan(seed=2**32 - 1)


def test_stream_requires_all_of_its_numbers():
    with pytest.raises(ValueError, match=r"CROPS has the numbers \('epoch', 'block'\), got \(3,\)"):
        streams.generator(0, Stream.CROPS, 3)


def _list_generator_names(path: Path) -> Iterator[str]:
    """Yields the names, except types, that a file uses of modules that create generators."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            is_module = name.startswith(("np.random.", "tf.random."))
            is_key = name in {"jax.random.key", "jax.random.PRNGKey", "random.key"}
            if (is_module and name != "np.random.Generator") or is_key:
                yield name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules = [getattr(node, "module", None), *(alias.name for alias in node.names)]
            yield from (str(module) for module in modules if str(module).endswith("random"))


def test_only_streams_py_creates_generators_and_keys():
    made = {path.name: set(_list_generator_names(path)) for path in _PACKAGE.rglob("*.py")}
    assert made.pop("streams.py")
    assert not {name: names for name, names in made.items() if names}
