"""Public functions: invalid labels and numbers are refused by name, in every function."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from dcjax import losses
from dcjax.core.errors import InputError
from dcjax.division import device_kmeans, division, host_kmeans, masks, sampling
from dcjax.division.division import Division
from dcjax.experiment import parts
from dcjax.losses import memory, mining, pairs
from dcjax.losses.pairs import References
from dcjax.retrieval import metrics

KEY = jax.random.key(0)
X = masks.l2_normalize(jax.random.normal(KEY, (8, 4)))
LABELS = np.arange(8) // 2
CLUSTERS = Division((np.arange(8) // 4).astype(np.int32), np.zeros(2, np.int32), 0)

BAD_LABELS: dict[str, Any] = {
    "too few": LABELS[:-1],
    "too many": np.append(LABELS, 0),
    "none": LABELS[:0],
    "an empty list": [],
    "of two dimensions": LABELS[:, None],
    "a number": 3,
    "fractions": LABELS + 0.5,
    "whole floats": LABELS.astype(float),
    "NaN": np.full(8, np.nan),
    "truth values": LABELS > 1,
    "text": LABELS.astype(str),
    "objects": LABELS.astype(object),
    "a ragged list": [[0, 1], *range(7)],
    "beyond int64": LABELS.astype(np.uint64) + np.uint64(2**63),
    "missing": None,
}
SAME_LABELS = [LABELS.tolist(), jnp.asarray(LABELS), LABELS.astype(np.uint8), LABELS.astype(">i8")]


@functools.cache
def _loss(name: str, **changes: Any) -> tuple[losses.Loss, losses.Params]:
    config = default.get_config()
    config.model.embedding_dim = 4
    config.loss.name = name
    config.update_from_flattened_dict(changes)
    loss = parts.create_loss(config, np.ones(5, int))
    return loss, loss.init(KEY)


def _apply(name: str, labels: Any, x: Any = X, **more: Any) -> Any:
    loss, params = _loss(name)
    return loss.apply(params, x, labels, KEY, **more)[0]


def _plan(labels: Any = LABELS, **changes: Any) -> Any:
    options = {"sampler": "uniform", "batch_size": 4, "seed": 0, "epoch": 0} | changes
    return sampling.plan_epoch(CLUSTERS, labels, **options).rows


def _divide(labels: Any = LABELS, **changes: Any) -> Any:
    options = {"num_clusters": 2, "period": 0, "seed": 0} | changes
    return division.divide(np.asarray(X), labels, None, **options).cluster


TAKE_LABELS: dict[str, Callable[[Any], Any]] = {
    **{f"loss {name}": functools.partial(_apply, name) for name in losses.KNOWN},
    "pairs.compare": lambda labels: pairs.compare(X, labels).positives,
    "distance_weighted_probabilities": lambda labels: mining.distance_weighted_probabilities(
        pairs.pairwise_distances(X), labels, dim=4, cutoff=0.5, upper=1.4
    ),
    "divide": _divide,
    "plan_epoch": _plan,
    "one_class_shares": lambda labels: sampling.one_class_shares(
        CLUSTERS, labels, batch_size=4, sampler="uniform"
    ),
    "by_super_class": lambda labels: (
        division.divide_by_super_class(labels, LABELS, None, num_clusters=2, period=0).cluster
    ),
    "match": lambda labels: division.match(labels, LABELS, 4, "iou"),
    "match with": lambda labels: division.match(LABELS, labels, 4, "iou"),
    "nmi": lambda labels: host_kmeans.nmi(LABELS, labels),
    "score": lambda labels: list(metrics.score(X, labels, ks=[1]).values()),
    "score a gallery": lambda labels: list(metrics.score(X, LABELS, X, labels, ks=[1]).values()),
    "score_one_per_class": lambda labels: list(
        metrics.score_one_per_class(X, labels, ks=[1], num_draws=2).values()
    ),
}


# All losses check labels in the same way; one of pairs and one of proxies represent them.
SAME_RESULT = {name for name in TAKE_LABELS if not name.startswith("loss")}
SAME_RESULT |= {"loss n_pairs", "loss proxy_nca"}


@pytest.mark.parametrize("name", TAKE_LABELS)
def test_labels_must_be_integers_one_per_row(name: str) -> None:
    take = TAKE_LABELS[name]
    wrong = []
    for kind, labels in BAD_LABELS.items():
        try:
            take(labels)
            wrong.append(f"{kind}: taken")
        except InputError as error:
            if not re.search("(must|Require) .*got", str(error)):
                wrong.append(f"{kind}: {error}")
    assert not wrong
    if name in SAME_RESULT:
        for labels in SAME_LABELS:
            np.testing.assert_array_equal(take(labels), take(LABELS))


BY_CLASS = {
    "margin": {"loss.margin.learn_beta": "per_class"},
    "proxy_anchor": {},
    "cosface": {},
    "soft_triple": {},
}


@pytest.mark.parametrize("name", BY_CLASS)
def test_labels_out_of_range_are_refused_or_give_nan(name: str) -> None:
    loss, params = _loss(name, **BY_CLASS[name])

    def value(params: losses.Params, x: jax.Array, labels: Any) -> jax.Array:
        return loss.apply(params, x, labels, KEY)[0]

    grad = jax.value_and_grad(value, argnums=(0, 1))
    jitted = jax.jit(grad)
    known = jitted(params, X, LABELS)
    # Labels that a jitted function closes over are concrete, so they are checked too.
    of_labels = jnp.asarray(LABELS)
    held = jax.jit(lambda params, x: value(params, x, of_labels))
    np.testing.assert_allclose(held(params, X), known[0], rtol=1e-6)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(known))
    for wrong in (-1, 5, 2**31 - 1):
        labels = LABELS.copy()
        labels[3] = wrong
        for call in (value, grad):  # labels are concrete, also inside a gradient
            with pytest.raises(InputError, match=rf"labels must lie in 0..4, got .*{wrong}"):
                call(params, X, labels)
        actual, (of_params, of_x) = jitted(params, X, labels)
        assert np.isnan(actual)
        assert np.all(np.isnan(of_x))
        assert all(np.any(np.isnan(leaf)) for leaf in jax.tree.leaves(of_params))


def test_labels_past_num_classes_are_refused_despite_padding_rows() -> None:
    # 1,025 classes are padded to 1,152 rows.
    loss = losses.create("normalized_softmax", num_classes=1025, embedding_dim=4, temperature=0.05)
    with pytest.raises(InputError, match=r"0..1024, got 1024..1025"):
        loss.apply(loss.init(KEY), X[:2], np.array([1024, 1025]), KEY)


def test_pairwise_losses_accept_any_integer_labels() -> None:
    loss, params = _loss("n_pairs")
    value = loss.apply(params, X, LABELS, KEY)[0]
    np.testing.assert_array_equal(loss.apply(params, X, 10**6 - LABELS, KEY)[0], value)
    narrow = losses.create("n_pairs", num_classes=1, embedding_dim=9, alpha=1.0, learn_alpha=True)
    np.testing.assert_array_equal(narrow.apply(params, X, LABELS, KEY)[0], value)


@pytest.mark.parametrize("name", losses.KNOWN)
def test_embeddings_must_be_floats_of_the_configured_width(name: str) -> None:
    has_proxies = any(leaf.ndim > 1 for leaf in jax.tree.leaves(_loss(name)[1]))
    narrow = [X[:, :3]] if has_proxies else []
    for x in (*narrow, X[0], X[None], np.zeros((8, 4), int), X.tolist() + [[1.0]], X[:0], "x"):
        with pytest.raises(InputError, match="embeddings must be"):
            _apply(name, LABELS, x)


def test_mask_and_memory_of_a_loss_are_checked() -> None:
    with pytest.raises(InputError, match=r"mask must be of shape \(4,\), got shape \(1,\)"):
        _apply("proxy_nca", LABELS, mask=jnp.ones(1))
    with pytest.raises(InputError, match="labels must be 2 integers"):
        _apply("n_pairs", LABELS, memory=References(X[:2], jnp.array([0])))
    with pytest.raises(InputError, match="embeddings must be"):
        _apply("n_pairs", LABELS, memory=References(X[:2, :3], jnp.array([0, 1])))


NUMBERS: dict[str, tuple[Callable[[Any], Any], tuple[Any, ...]]] = {
    # Name: a call with the number, and numbers that are out of range.
    "num_classes": (
        lambda n: losses.create(
            "n_pairs", num_classes=n, embedding_dim=4, alpha=1.0, learn_alpha=0
        ),
        (0, -1),
    ),
    "embedding_dim": (
        lambda n: losses.create(
            "n_pairs", num_classes=4, embedding_dim=n, alpha=1.0, learn_alpha=0
        ),
        (0, -1),
    ),
    "k": (lambda n: host_kmeans.kmeans(np.asarray(X), n, seed=0), (0, -1, 9)),
    "k on devices": (lambda n: device_kmeans.kmeans(np.asarray(X), n, seed=0), (0, -1, 9)),
    "num_iterations": (
        lambda n: host_kmeans.kmeans(np.asarray(X), 2, seed=0, num_iterations=n),
        (-1,),
    ),
    "num_clusters": (lambda n: _divide(num_clusters=n), (0, -1)),
    "num_trials": (lambda n: _divide(num_trials=n), (0, -1)),
    "period": (lambda n: _divide(period=n), (-1,)),
    "num_clusters of match": (
        lambda n: division.match(LABELS % 2, LABELS % 2, n, "iou"),
        (0, -4, 1),
    ),
    "batch_size": (lambda n: _plan(batch_size=n), (0, 3, 9)),
    "images_per_class": (
        lambda n: _plan(images_per_class=n, sampler="balanced"),
        (0, -2, 4),
    ),
    "clusters_per_step": (lambda n: _plan(clusters_per_step=n), (0, -1)),
    "images_at_once": (lambda n: _plan(images_at_once=n), (0,)),
    "block": (lambda n: metrics.score(X, LABELS, ks=[1], block=n), (0, -1)),
    "num_draws": (
        lambda n: metrics.score_one_per_class(X, LABELS, ks=[1], num_draws=n),
        (0, -1),
    ),
    "a k of ks": (lambda n: metrics.score(X, LABELS, ks=(1, n)), (0, -1, 8)),
    "clusters to split": (lambda n: masks.split(masks.initial(8, 4), n, "fixed"), (0, -1, 5)),
    "clusters of masks": (lambda n: masks.orthogonality(jnp.ones((8, 4)), n), (0, -1, 9)),
    "size of a memory": (lambda n: memory.empty(n, 4), (-1,)),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_must_be_integers_within_their_range(name: str) -> None:
    take, out_of_range = NUMBERS[name]
    for number in (*out_of_range, 2.0, 2.5, True, np.True_, "2", float("nan"), [2], None):
        if (name, number) != ("block", None):
            with pytest.raises(InputError, match="got"):
                take(number)
    take(np.int64(4 if name == "batch_size" else 2))


def test_ks_of_recall_must_be_integers() -> None:
    for ks in ((1.5,), (1.0,), (True, 2), ("1",), (), [[1]], 1, "12", np.array([1.0]), (np.nan,)):
        with pytest.raises(InputError, match=r"every k of ks, .*got"):
            metrics.score(X, LABELS, ks=ks)
    expected = metrics.score(X, LABELS, ks=(1, 2))
    for ks in ([1, 2], np.array([1, 2]), (np.int8(1), 2, 2), range(1, 3)):
        assert metrics.score(X, LABELS, ks=ks) == expected


def test_plan_refuses_cluster_numbers_out_of_range() -> None:
    for cluster in ([0, 1, 2, 0], [0, -2, 1, 1]):
        strange = Division(np.array(cluster, np.int32), np.zeros(2, np.int32), 0)
        with pytest.raises(InputError, match=r"division.cluster must lie in -1..1"):
            sampling.plan_epoch(
                strange, LABELS[:4], batch_size=4, images_per_class=2, seed=0, epoch=0
            )


def test_masks_must_have_the_width_of_the_embeddings() -> None:
    for mask in (jnp.ones(1), jnp.ones(()), jnp.ones(3), jnp.ones((8, 1))):
        with pytest.raises(InputError, match="as wide as the embeddings"):
            masks.apply(X, mask)
    for wrong in (jnp.ones(4), jnp.ones((2, 2, 4)), np.ones((2, 4), int)):
        for call in (masks.combine, lambda m: masks.split(m, 1, "learned")):
            with pytest.raises(InputError, match="masks must be floating-point numbers"):
                call(wrong)
    for parents in ([0, 8, *[-1] * 6], [0], [0.0] * 8):
        with pytest.raises(InputError, match="parents must"):
            masks.inherit(jnp.ones((8, 4)), np.array(parents), "learned")


def test_memory_refuses_batches_of_the_wrong_shape_or_type() -> None:
    def enqueue(x: Any = X[None], labels: Any = LABELS[None], clusters: Any = (0,)) -> Any:
        return memory.enqueue(
            memory.empty(8, 4), x, jnp.asarray(labels), jnp.asarray(np.array(clusters))
        )

    assert enqueue()["count"] == 8
    for wrong in (
        {"labels": LABELS[None, :-1]},
        {"labels": LABELS},
        {"labels": LABELS[None] + 0.5},
        {"labels": LABELS[None] - 1},
        {"clusters": (0, 1)},
        {"clusters": (-1,)},
        {"x": X},
        {"x": X[None, :, :3]},
        {"x": X[jnp.arange(9) % 8][None], "labels": np.zeros((1, 9), int)},
    ):
        with pytest.raises(InputError, match=r"got|at a time"):
            enqueue(**wrong)


def test_pairs_of_the_margin_loss_must_have_one_shape() -> None:
    d, pos = pairs.pairwise_distances(X), jnp.eye(8)
    for change in ({"positives": pos[:1]}, {"negatives": pos[:, :1]}, {"beta": jnp.ones(3)}):
        options: Any = {"positives": pos, "negatives": pos, "beta": 1.2} | change
        with pytest.raises(InputError, match=f"{next(iter(change))} must be"):
            losses.margin_loss(d, margin=0.2, nu=0.0, **options)
