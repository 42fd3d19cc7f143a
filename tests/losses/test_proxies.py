"""Losses of proxies: golden numbers, plain loops, and robustness to any batch or mask."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from configs import default
from dcjax import losses
from dcjax.division import masks
from dcjax.losses import proxies, soft_triple
from dcjax.losses.proxy_similarities import Similarities, num_rows
from tests import slow_proxies

GOLDEN_FILES = Path(__file__).parents[1] / "golden"
CASES = np.load(GOLDEN_FILES / "proxies.npz")
NAMES = (
    "arcface",
    "cosface",
    "normalized_softmax",
    "proxy_anchor",
    "proxy_nca",
    "soft_triple",
    "sub_center_arcface",
)
GOLDEN: dict[str, tuple[str, dict[str, Any]]] = {
    "arcface": ("arcface", {"margin": math.radians(28.6), "scale": 64.0}),
    "proxy_anchor": ("proxy_anchor", {"margin": 0.1, "alpha": 32.0}),
    "proxy_nca_paper": ("proxy_nca", {"scale": 1.0, "denominator": "others"}),
    "proxy_nca_all_proxies": ("proxy_nca", {"scale": 1.0, "denominator": "all"}),
}
BY_SIZE = {"size_exponent": 0.25, "least_margin": 0.05}  # Ha et al. 2020
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "dynamic_arcface": ("arcface", BY_SIZE),
    "sub_center_arcface": ("sub_center_arcface", {}),
    "dynamic_sub_center_arcface": ("sub_center_arcface", BY_SIZE),
}
KEY = jax.random.key(0)


def _options(name: str, **changed: Any) -> dict[str, Any]:
    return dict(default.get_config().loss[name]) | changed


def _create(name: str, num_classes: int, dim: int, **changed: Any) -> losses.Loss:
    options = _options(name, **changed)
    return losses.create(name, num_classes=num_classes, embedding_dim=dim, **options)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("golden", GOLDEN)
@pytest.mark.parametrize("case", ["balanced", "uneven"])
def test_losses_agree_with_golden_numbers(case: str, golden: str, x64: bool) -> None:
    name, options = GOLDEN[golden]
    labels, rows = CASES[f"{case}/labels"], CASES[f"{case}/proxies"]
    loss = _create(name, *rows.shape, **options)

    def of_raw(raw: jax.Array) -> jax.Array:
        params = {"proxies": jnp.asarray(rows, raw.dtype)}
        return loss.apply(params, masks.l2_normalize(raw), jnp.asarray(labels), KEY)[0]

    with jax.enable_x64(x64):
        raw = jnp.asarray(CASES[f"{case}/embeddings"], jnp.float64 if x64 else jnp.float32)
        value, gradient = jax.jit(jax.value_and_grad(of_raw))(raw)
        assert value.dtype == raw.dtype
    tolerance = 1e-10 if x64 else 1e-5
    expected = CASES[f"{case}/{golden}/grad"]
    np.testing.assert_allclose(value, CASES[f"{case}/{golden}/value"], rtol=tolerance)
    atol = tolerance * np.max(np.abs(expected))
    np.testing.assert_allclose(gradient, expected, rtol=tolerance, atol=atol)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("case", ["balanced", "uneven"])
def test_margins_by_size_and_sub_centers_agree_with_pytorch_metric_learning(
    case: str, peer: str, x64: bool
) -> None:
    name, options = PEERS[peer]
    golden, given = (
        np.load(GOLDEN_FILES / f"{file}.npz") for file in ("pytorch_metric_learning", "losses")
    )
    centers, sizes = golden[f"{case}/centers"], golden[f"{case}/class_sizes"]
    if name == "arcface":
        centers = centers[:, 0]
    loss = _create(name, len(centers), centers.shape[-1], class_sizes=sizes, **options)

    def of_raw(raw: jax.Array, centers: jax.Array) -> jax.Array:
        (key,) = jax.eval_shape(loss.init, KEY)
        labels = jnp.asarray(given[f"{case}/labels"])
        return loss.apply({key: centers}, masks.l2_normalize(raw), labels, KEY)[0]

    with jax.enable_x64(x64):
        dtype = jnp.float64 if x64 else jnp.float32
        arguments = (jnp.asarray(x, dtype) for x in (given[f"{case}/embeddings"], centers))
        value, gradients = jax.jit(jax.value_and_grad(of_raw, argnums=(0, 1)))(*arguments)
        assert value.dtype == dtype
    tolerance = 1e-10 if x64 else 2e-5
    np.testing.assert_allclose(value, golden[f"{case}/{peer}/value"], rtol=tolerance)
    for part, gradient in zip(("grad", "centers_grad"), gradients, strict=True):
        expected = golden[f"{case}/{peer}/{part}"].reshape(gradient.shape)
        atol = tolerance * np.max(np.abs(expected))
        np.testing.assert_allclose(gradient, expected, rtol=tolerance, atol=atol)


LOOPS = [(name, {}) for name in NAMES if name != "proxy_nca"] + [
    ("proxy_nca", {"scale": 3.0, "denominator": denominator}) for denominator in ("others", "all")
]
LOOPS += [
    (name, BY_SIZE | {"class_sizes": [1, 300, 7, 40], "scale": 4.0})
    for name in ("arcface", "sub_center_arcface")
]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("name", "changed"), LOOPS)
def test_losses_agree_with_plain_loops_and_gradients_with_differences(
    name: str, changed: dict[str, Any], masked: bool
) -> None:
    changed = changed | ({"centers": 3} if name == "soft_triple" else {})
    rng, labels = np.random.default_rng(0), [0, 2, 2, 1, 3, 0]
    raw, mask = rng.normal(size=(6, 5)), np.array([1.0, 0.4, 0.0, 2.0, 0.7])
    with jax.enable_x64(True):
        loss, options = _create(name, 4, 5, **changed), _options(name, **changed)
        params = loss.init(KEY)

        def of_raw(params: losses.Params, raw: jax.Array, mask: jax.Array) -> jax.Array:
            multiplied = raw * mask if masked else raw
            return loss.apply(
                params,
                masks.l2_normalize(multiplied),
                jnp.asarray(labels),
                KEY,
                mask=mask if masked else None,
            )[0]

        arguments = (params, jnp.asarray(raw), jnp.asarray(mask))
        actual = of_raw(*arguments)
        check_grads(jax.jit(of_raw), arguments, order=1, modes=("rev",), eps=1e-6, rtol=1e-6)
    (rows,) = (np.asarray(value) for value in params.values())
    if masked:
        raw, rows = raw * mask, rows * mask
    x, rows = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (raw, rows))
    expected = slow_proxies.loss(name, x, rows, labels, options)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


@functools.cache
def _value_and_grads(name: str) -> tuple[losses.Loss, Callable[..., Any]]:
    loss = _create(name, 4, 4)

    def value(
        params: losses.Params, raw: jax.Array, labels: jax.Array, mask: jax.Array | None
    ) -> Any:
        x = masks.l2_normalize(raw if mask is None else raw * mask)
        return loss.apply(params, x, labels, KEY, mask=mask)

    return loss, jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))


DEGENERATE = {
    "no positive": (np.eye(4), [0, 1, 2, 3]),
    "one class": (np.eye(4), [1, 1, 1, 1]),
    "identical": (np.full((4, 4), 0.5), [0, 0, 1, 1]),
    "zeros": (np.zeros((4, 4)), [0, 0, 1, 1]),
    "two of a class": (np.eye(4)[:2], [0, 0]),
    "two, identical": (np.eye(4)[[0, 0]], [0, 1]),
    "on and opposite proxies": (np.array([[1.0, 0, 0, 0], [-1, 0, 0, 0]] * 2), [0, 0, 1, 1]),
}


@pytest.mark.parametrize("name", NAMES)
def test_degenerate_batches_and_masks_give_finite_losses(name: str) -> None:
    loss, value_and_grads = _value_and_grads(name)
    rows = {key: jnp.zeros_like(value).at[..., 0].set(3.0) for key, value in loss.init(KEY).items()}
    not_finite = []
    for masked in (None, 1.0, 0.0):
        mask = None if masked is None else jnp.full(4, masked)
        for title, (raw, labels) in DEGENERATE.items():
            x = jnp.asarray(raw, jnp.float32)
            leaves = jax.tree.leaves(value_and_grads(rows, x, jnp.array(labels), mask))
            if not all(np.all(np.isfinite(leaf)) for leaf in leaves):
                not_finite.append((title, masked))
    assert not not_finite


@pytest.mark.parametrize("cosine", [1.0, -1.0, 0.2])
def test_arcface_adds_its_margin_up_to_pi_and_decreases_beyond(cosine: float) -> None:
    margin, nothing = 0.5, jnp.full((1, 2), -jnp.inf).at[0, 1].set(0.0)

    def logit(cosine: jax.Array) -> jax.Array:
        """The logit of the own class if the only other logit is 0."""
        loss = proxies.arcface_loss(Similarities(cosine[None], nothing), margin=margin, scale=1.0)
        return -jnp.log(jnp.expm1(loss))

    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(logit)(jnp.asarray(cosine, jnp.float64))
        angles = jnp.linspace(0, math.pi, 50)
        falling = jax.vmap(logit)(jnp.cos(angles))
    expected = {
        1.0: math.cos(margin),
        -1.0: -1 - margin * math.sin(margin),
        0.2: math.cos(math.acos(0.2) + margin),
    }
    np.testing.assert_allclose(value, expected[cosine], rtol=1e-12)
    assert np.isfinite(gradient)
    assert np.all(np.diff(falling) < 0)


def test_binary_mask_gives_the_loss_of_the_subspace() -> None:
    rng, labels = np.random.default_rng(1), jnp.array([0, 1, 2, 0])
    raw, mask = jnp.asarray(rng.normal(size=(4, 6)), jnp.float32), jnp.array([0, 1, 1, 0, 1, 0])
    for name in NAMES:
        loss, inside = _create(name, 3, 6), _create(name, 3, 3)
        params = loss.init(KEY)
        kept = np.flatnonzero(mask)
        actual, _ = loss.apply(params, masks.apply(raw, mask), labels, KEY, mask=mask)
        expected, _ = inside.apply(
            {key: value[..., kept] for key, value in params.items()},
            masks.l2_normalize(raw[:, kept]),
            labels,
            KEY,
        )
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_rows_of_many_classes_divide_by_any_usual_number_of_devices() -> None:
    assert [num_rows(n) for n in (2, 1023, 1024, 1025, 10**6)] == [2, 1023, 1024, 1152, 1_000_064]


@pytest.mark.parametrize("name", NAMES)
def test_padding_rows_do_not_affect_the_loss(name: str) -> None:
    loss, rng = _create(name, 1025, 3), np.random.default_rng(0)
    (key, rows), *_ = loss.init(KEY).items()
    assert len(rows) == 1152
    x = masks.l2_normalize(jnp.asarray(rng.normal(size=(4, 3)), jnp.float32))
    value_and_grad = jax.jit(jax.value_and_grad(loss.apply, has_aux=True))

    def at(rows: jax.Array) -> Any:
        (value, stats), grads = value_and_grad({key: rows}, x, jnp.array([0, 5, 1024, 5]), KEY)
        return value, stats, grads[key]

    value, stats, grad = at(rows)
    # Padding rows placed on the embeddings: if they counted, they would be the nearest.
    moved = at(rows.at[1025:1029].set(x if rows.ndim == 2 else x[:, None, :]))
    np.testing.assert_array_equal(grad[1025:], 0)
    of_classes = grad[np.array([0, 5, 1024])].reshape(3, -1)  # of all or some of their centers
    assert np.all(np.any(of_classes != 0, axis=1))
    assert moved[:2] == (value, stats)
    assert stats["nearest_other_similarity"] < 1


def test_initial_proxies_are_unit_vectors_in_all_directions() -> None:
    rows = _create("proxy_anchor", 1000, 64).init(KEY)["proxies"]
    lengths = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(np.mean(lengths), 1, atol=0.02)
    assert np.linalg.norm(np.mean(rows / lengths[:, None], axis=0)) < 0.06
    centers = _create("soft_triple", 5, 8, centers=3).init(KEY)["centers"]
    assert centers.shape == (5, 3, 8)


def test_margin_falls_from_that_of_one_image_to_the_least_one() -> None:
    sizes = [0, 1, 16, 10**9]
    margins = proxies.class_margins(sizes, margin=0.5, size_exponent=0.25, least_margin=0.05)
    np.testing.assert_allclose(margins, [0.55, 0.55, 0.3, 0.05], atol=0.003)


def test_image_is_compared_with_the_nearest_center_of_its_class_only() -> None:
    # The other two centers are moved: neither the loss nor their gradient notices.
    loss, x = _create("sub_center_arcface", 2, 3, scale=1.0), jnp.eye(3)[:1]
    near, label = jnp.array([1.0, 1.0, 0.0]), jnp.array([1])
    away, own = jnp.array([[0.0, 1.0, 0.0]] * 3), jnp.array([near, near, [-1.0, 0, 0]])
    value = jax.value_and_grad(lambda centers: loss.apply({"centers": centers}, x, label, KEY)[0])
    first, gradient = value(jnp.stack([away, own.at[1].set(-near)]))
    second, _ = value(jnp.stack([away, own.at[1].set(jnp.array([0.0, 0, 1]))]))
    assert first == second
    np.testing.assert_array_equal(np.any(gradient[1] != 0, axis=1), [True, False, False])


def test_soft_triple_with_one_center_is_softmax_with_a_margin() -> None:
    rng = np.random.default_rng(2)
    x = masks.l2_normalize(jnp.asarray(rng.normal(size=(4, 6)), jnp.float32))
    labels, rows = jnp.array([0, 1, 2, 0]), _create("cosface", 3, 6).init(KEY)["proxies"]
    one = _create("soft_triple", 3, 6, centers=1, la=5.0, margin=0.2)
    cosface = _create("cosface", 3, 6, scale=5.0, margin=0.2)
    np.testing.assert_allclose(
        one.apply({"centers": rows[:, None]}, x, labels, KEY)[0],
        cosface.apply({"proxies": rows}, x, labels, KEY)[0],
        rtol=1e-6,
    )


def test_soft_triple_pulls_the_centers_of_a_class_together() -> None:
    def objective(centers: jax.Array) -> jax.Array:
        _, distances = soft_triple.compare_with_centers(jnp.eye(2), centers, 0.1)
        return soft_triple.center_spread(distances, 2)

    centers = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    value, gradient = jax.value_and_grad(objective)(centers)
    np.testing.assert_allclose(value, math.sqrt(2) / (2 * 2 * 1), rtol=1e-6)
    np.testing.assert_array_equal(np.sign(gradient[0]), [[0, -1], [-1, 0]])
    np.testing.assert_array_equal(gradient[1], 0)  # already identical


def test_soft_triple_without_regulariser_is_what_is_left_of_it() -> None:
    x = masks.l2_normalize(jax.random.normal(jax.random.key(1), (6, 8)))
    labels, whole = jnp.arange(6) % 3, _create("soft_triple", 3, 8, centers=4, tau=0.3)
    params = whole.init(KEY)

    def regulariser(params: Any) -> jax.Array:
        _, distances = soft_triple.compare_with_centers(x, params["centers"][:3], 0.1)
        return 0.3 * soft_triple.center_spread(distances, 4)

    def rest(params: Any, x: jax.Array) -> jax.Array:
        return whole.apply(params, x, labels, KEY)[0] - regulariser(params)

    without = _create("soft_triple", 3, 8, centers=4, tau=0.0)
    found, expected = (
        jax.value_and_grad(of, argnums=(0, 1))(params, x)
        for of in (lambda *arguments: without.apply(*arguments, labels, KEY)[0], rest)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(found[0], whole.apply(params, x, labels, KEY)[0], atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_descent_aligns_embeddings_with_the_proxies_of_their_class(name: str) -> None:
    loss, labels = _create(name, 5, 8), jnp.arange(10) % 5
    trained = (loss.init(KEY), jax.random.normal(jax.random.key(1), (10, 8)))

    @jax.jit
    def step(trained: Any) -> tuple[Any, dict[str, jax.Array]]:
        def of_raw(trained: Any) -> Any:
            return loss.apply(trained[0], masks.l2_normalize(trained[1]), labels, KEY)

        gradient, stats = jax.grad(of_raw, has_aux=True)(trained)
        return jax.tree.map(lambda x, g: x - 0.02 * jnp.sign(g), trained, gradient), stats

    for _ in range(60):
        trained, stats = step(trained)
    assert stats["own_similarity"] > stats["nearest_other_similarity"] + 0.4


def test_low_precision_is_computed_in_float32() -> None:
    loss, labels = _create("cosface", 4, 4), jnp.arange(4)
    x, params = jnp.eye(4, dtype=jnp.bfloat16), loss.init(KEY)
    actual, expected = (loss.apply(params, y, labels, KEY) for y in (x, x.astype(jnp.float32)))
    assert actual[0].dtype == jnp.float32
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def _fails(name: str, num_classes: int = 4, **changed: Any) -> Callable[[], Any]:
    return lambda: _create(name, num_classes, 4, **changed)


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (_fails("proxy_nca", 1), "require num_classes >= 2, got 1"),
        (_fails("proxy_nca", scale=0.0), "Require scale of at least 1e-06, got 0.0"),
        (_fails("proxy_nca", denominator="own"), "'own'; known are others, all"),
        (_fails("proxy_anchor", margin=2.0), "Require margin of at least 0 and at most 1, got 2"),
        (_fails("proxy_anchor", alpha=-1.0), "Require alpha"),
        (_fails("normalized_softmax", temperature=0.0), "Require temperature"),
        (_fails("cosface", margin=-0.1), "Require margin of at least 0 and at most 2"),
        (_fails("arcface", margin=28.6), "Require margin of at least 0 and at most 1.57.*got 28.6"),
        (_fails("arcface", scale=math.inf), "Require scale"),
        (_fails("soft_triple", centers=0), "Require centers, a whole number of at least 1, got 0"),
        (_fails("soft_triple", gamma=0.0), "Require gamma"),
        (_fails("sub_center_arcface", centers=0), "Require centers, a whole number of at least 1"),
        (_fails("arcface", margin=1.5, least_margin=0.1), r"margin \+ least_margin .* got 1.6"),
        (_fails("arcface", size_exponent=0.5), "size_exponent=0.5, needs class_sizes"),
        (_fails("arcface", class_sizes=[1, 2]), "class_sizes must be 4 integers"),
        (_fails("cosface", class_sizes=[1, 2, 3, -1]), "class_sizes must lie in 0"),
    ],
)
def test_errors_say_what_is_required(create: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create()


def test_nan_embedding_makes_the_loss_nan() -> None:
    x, labels = jnp.ones((4, 3)).at[0, 0].set(jnp.nan), jnp.array([0, 0, 1, 1])
    for name in NAMES:
        loss = _create(name, 2, 3)
        assert np.isnan(loss.apply(loss.init(KEY), x, labels, KEY)[0])
