"""The margin loss and its distances, against the authors' functions and hand-computed numbers."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcjax import losses
from dcjax.division import masks
from dcjax.losses import contrasts, mining, triplets
from dcjax.losses.pairs import Pairs, Triplets

DIRECTORY = Path(__file__).parents[1] / "golden"
REFERENCE = json.loads((DIRECTORY / "reference.json").read_text())
CASES = np.load(DIRECTORY / "losses.npz")
OPTIONS: dict[str, Any] = {
    "miner": mining.create("distance_weighted", dims="full", cutoff=0.5, upper_cutoff=1.4),
    "beta": 1.2,
    "margin": 0.2,
    "nu": 0.0,
    "learn_beta": "none",
}


def _raw() -> jax.Array:
    i, j = np.ogrid[:8, :6]
    return jnp.asarray(np.sin(1.3 * i * i + 0.7 * j + i * j), jnp.float32)


def _miner(dims: str) -> mining.Miner:
    return mining.create("distance_weighted", dims=dims, cutoff=0.5, upper_cutoff=1.4)


def _multiplicities(triplets: np.ndarray, size: int) -> tuple[jax.Array, jax.Array]:
    positives, negatives = np.zeros((2, size, size))
    for a, p, n in triplets:
        positives[a, p] += 1
        negatives[a, n] += 1
    return jnp.asarray(positives), jnp.asarray(negatives)


def _reference_pairs() -> tuple[jax.Array, jax.Array]:
    return _multiplicities(np.transpose([REFERENCE["triplets"][k] for k in "apn"]), 8)


def _margin_of_raw(raw: jax.Array, pairs: tuple[jax.Array, jax.Array], **options: Any) -> jax.Array:
    distances = losses.pairwise_distances(masks.l2_normalize(raw))
    return losses.margin_loss(distances, *pairs, **{"nu": 0.0} | options)


def _slow_margin(x: np.ndarray, labels: np.ndarray, beta: float, alpha: float) -> float:
    """Returns the margin loss of all pairs of a batch, computed pair by pair."""
    total, count = 0.0, 0
    for a in range(len(x)):
        for b in range(len(x)):
            d = np.sqrt(sum((x[a] - x[b]) ** 2))
            term = d - beta + alpha if labels[a] == labels[b] else beta - d + alpha
            if a != b and term > 0:
                total, count = total + term, count + 1
    return total / count


def test_distances_agree_with_reference() -> None:
    distances = losses.pairwise_distances(masks.l2_normalize(_raw()))
    np.testing.assert_allclose(distances, REFERENCE["pdist"], rtol=1e-5)


def test_margin_agrees_with_reference_in_value_and_gradients() -> None:
    pairs = _reference_pairs()

    def loss(raw: jax.Array, beta: jax.Array) -> jax.Array:
        return _margin_of_raw(raw, pairs, beta=beta, margin=0.2)

    value, (raw_grad, beta_grad) = jax.value_and_grad(loss, argnums=(0, 1))(_raw(), 1.2)
    expected = REFERENCE["margin"]
    np.testing.assert_allclose(value, expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(beta_grad, expected["dbeta"][0], rtol=1e-5)
    np.testing.assert_allclose(raw_grad[0], expected["draw_row0"], rtol=2e-5)


def test_margin_with_a_beta_for_each_class_agrees_with_reference() -> None:
    labels = np.repeat(np.arange(4), 2)
    actual = _margin_of_raw(
        _raw(), _reference_pairs(), beta=jnp.full(4, 1.2)[labels], margin=0.2, nu=0.1
    )
    np.testing.assert_allclose(actual, REFERENCE["margin_class_beta_nu0.1"], rtol=1e-5)


@pytest.mark.parametrize("case", ["balanced", "uneven", "pairs_d512"])
def test_margin_agrees_with_golden_numbers(case: str) -> None:
    with jax.enable_x64(True):
        raw = jnp.asarray(CASES[f"{case}/embeddings"], jnp.float64)
        pairs = _multiplicities(CASES[f"{case}/triplets"], len(raw))
        value, grad = jax.value_and_grad(_margin_of_raw)(raw, pairs, beta=1.2, margin=0.2)
    np.testing.assert_allclose(value, CASES[f"{case}/margin_triplets/value"], rtol=1e-6)
    np.testing.assert_allclose(grad, CASES[f"{case}/margin_triplets/grad"], rtol=1e-7, atol=1e-15)


@pytest.mark.parametrize(
    ("jit", "x64"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_margin_of_all_pairs_agrees_with_a_double_loop(jit: bool, x64: bool) -> None:
    x = CASES["uneven/embeddings"].astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    labels = CASES["uneven/labels"]
    same = labels[:, None] == labels[None, :]
    positives = jnp.asarray(same & ~np.eye(len(x), dtype=bool))

    def loss(x: jax.Array) -> jax.Array:
        distances = losses.pairwise_distances(x)
        negatives = jnp.asarray(~same)
        return losses.margin_loss(distances, positives, negatives, beta=1.3, margin=0.1, nu=0.0)

    with jax.enable_x64(x64):
        actual = (jax.jit(loss) if jit else loss)(jnp.asarray(x))
        assert actual.dtype == (jnp.float64 if x64 else jnp.float32)
    expected = _slow_margin(x, labels, 1.3, 0.1)
    np.testing.assert_allclose(actual, expected, rtol=1e-10 if x64 else 1e-5)


def test_multiplicities_count_like_repeated_pairs() -> None:
    distances = jnp.array([[0.01, 1.1, 1.3], [1.1, 0.01, 1.0], [1.3, 1.0, 0.01]])
    positives = jnp.zeros((3, 3)).at[0, 1].set(3)
    negatives = jnp.zeros((3, 3)).at[0, 2].set(1)
    actual = losses.margin_loss(distances, positives, negatives, beta=1.2, margin=0.2, nu=0.0)
    np.testing.assert_allclose(actual, (3 * 0.1 + 0.1) / 4, rtol=1e-5)


def test_listed_triplets_agree_with_reference() -> None:
    listed = [jnp.asarray(REFERENCE["triplets"][k])[:, None] for k in "pn"]
    mined = Triplets(*listed, jnp.ones((8, 1), bool))
    distances = losses.pairwise_distances(masks.l2_normalize(_raw()))
    # The reference adds 1e-6 to each difference of coordinates.
    actual = triplets.triplet_loss(distances, mined, margin=0.2, average="nonzero")
    np.testing.assert_allclose(actual, REFERENCE["triplet_fixed_avg_nonzero"], rtol=1e-5)
    actual = triplets.soft_triplet_loss(distances, mined)
    np.testing.assert_allclose(actual, REFERENCE["triplet_fixed_soft"], rtol=1e-5)


def test_mined_triplets_agree_with_reference() -> None:
    labels, key = jnp.repeat(jnp.arange(4), 2), jax.random.key(0)
    semi_hard = mining.create("semi_hard", fallback="farthest")
    options = {"miner": semi_hard, "margin": 0.2, "squared": False, "average": "all"}
    loss = losses.create("triplet", num_classes=4, embedding_dim=6, **options)
    actual, _ = loss.apply({}, masks.l2_normalize(_raw()), labels, key)
    np.testing.assert_allclose(actual, REFERENCE["triplet_semihard_m0.2"], rtol=1e-5)
    loss = losses.create("soft_triplet", num_classes=4, embedding_dim=6, miner=semi_hard)
    actual, _ = loss.apply({}, masks.l2_normalize(_raw()), labels, key)
    np.testing.assert_allclose(actual, REFERENCE["triplet_semihard_soft"], rtol=1e-5)


def test_all_triplets_agree_with_reference() -> None:
    """In the reference, unlike here, the anchor is among its own negatives."""
    labels = jnp.repeat(jnp.arange(4), 2)
    same, itself = labels[:, None] == labels[None, :], jnp.eye(8, dtype=bool)
    pairs = Pairs(*((x * 1.0) for x in (same & ~itself, ~same | itself)))
    distances = losses.pairwise_distances(masks.l2_normalize(_raw()))
    actual = triplets.triplet_loss(distances, pairs, margin=0.2, average="all")
    np.testing.assert_allclose(
        actual, REFERENCE["triplet_all_including_self_as_negative"], rtol=1e-5
    )


@pytest.mark.parametrize("alpha", [1.0, 3.5])
def test_n_pairs_agrees_with_reference_in_value_and_gradients(alpha: float) -> None:
    labels = jnp.repeat(jnp.arange(4), 2)
    loss = losses.create("n_pairs", num_classes=4, embedding_dim=6, alpha=alpha, learn_alpha=True)

    def of_raw(params: losses.Params, raw: jax.Array) -> jax.Array:
        return loss.apply(params, masks.l2_normalize(raw), labels, jax.random.key(0))[0]

    params = loss.init(jax.random.key(0))
    value, (of_params, grad) = jax.value_and_grad(of_raw, argnums=(0, 1))(params, _raw())
    expected = REFERENCE[f"npairs_alpha{alpha}"]
    np.testing.assert_allclose(value, expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(of_params["alpha"], expected["dalpha"][0], rtol=1e-5)
    np.testing.assert_allclose(grad[0], expected["draw_row0"], rtol=2e-5)


def test_n_pairs_excludes_anchors_without_a_positive() -> None:
    labels = jnp.array([0, 0, 0, 1, 1, 2, 3, 3])
    same, itself = labels[:, None] == labels[None, :], jnp.eye(8, dtype=bool)
    x = masks.l2_normalize(_raw())
    actual = contrasts.multi_positive_softmax(x @ x.T, same & ~itself, ~same)
    np.testing.assert_allclose(actual, REFERENCE["npairs_labels00011233_alpha1"], rtol=1e-5)


def test_betas_start_at_the_given_value_and_only_batch_classes_get_gradients() -> None:
    key = jax.random.key(0)
    shapes = {"none": None, "shared": (), "per_class": (5,)}
    for learn_beta, shape in shapes.items():
        loss = losses.create(
            "margin",
            num_classes=5,
            embedding_dim=6,
            **OPTIONS | {"learn_beta": learn_beta, "nu": 0.1},
        )
        params = loss.init(key)
        assert (params["beta"].shape if params else None) == shape
        assert all(np.all(leaf == np.float32(1.2)) for leaf in params.values())
    labels = jnp.repeat(jnp.arange(4), 2)
    grads = jax.grad(lambda p: loss.apply(p, masks.l2_normalize(_raw()), labels, key)[0])(params)
    np.testing.assert_array_equal(grads["beta"] != 0, [True] * 4 + [False])


def test_margin_pulls_positives_together_and_pushes_negatives_apart() -> None:
    loss = losses.create("margin", num_classes=4, embedding_dim=6, **OPTIONS)
    labels, raw = jnp.repeat(jnp.arange(4), 2), _raw()

    @jax.jit
    def step(raw: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        def of_raw(raw: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            return loss.apply({}, masks.l2_normalize(raw), labels, key)

        grad, stats = jax.grad(of_raw, has_aux=True)(raw)
        return raw - 0.3 * grad, stats

    for seed in range(300):
        raw, stats = step(raw, jax.random.key(seed))
    assert stats["positive_distance"] < 1.0 < 1.2 < stats["negative_distance"]


def test_active_dims_samples_in_the_subspace_of_the_mask() -> None:
    # Zeros beyond the subspace change nothing: the pairs are those of the subspace alone.
    labels, key = jnp.repeat(jnp.arange(4), 2), jax.random.key(0)
    inside = masks.l2_normalize(_raw())
    padded = jnp.concatenate([inside, jnp.zeros((8, 506))], axis=1)

    def value(dims: str, embeddings: jax.Array) -> float:
        options = OPTIONS | {"miner": _miner(dims)}
        loss = losses.create("margin", num_classes=4, embedding_dim=embeddings.shape[1], **options)
        return float(loss.apply({}, embeddings, labels, key)[0])

    np.testing.assert_allclose(value("active", padded), value("full", inside), rtol=1e-6)
    assert abs(value("full", padded) - value("full", inside)) > 1e-3


def test_low_precision_is_computed_in_float32() -> None:
    assert losses.pairwise_distances(jnp.ones((2, 3), jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        (
            "margin",
            {"alpha": 1.0},
            "Unknown option 'alpha' of loss 'margin'; known options are miner",
        ),
        (
            "margin",
            {"learnbeta": "all"},
            "'learnbeta' of loss 'margin'; .*; the nearest is learn_beta",
        ),
        ("margin", {"learn_beta": "all"}, "'all'.*none, shared, per_class"),
        ("margin", {"beta": 3.0}, "beta of at least 0 and at most 2, got 3.0"),
    ],
)
def test_errors_name_the_value_and_the_alternatives(
    name: str, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        losses.create(name, num_classes=4, embedding_dim=6, **OPTIONS | changed)


def test_nan_embedding_makes_the_loss_nan():
    embeddings = jnp.ones((4, 3)).at[0, 0].set(jnp.nan)
    assert np.isnan(losses.pairwise_distances(embeddings)[0]).all()
    loss = losses.create("margin", num_classes=2, embedding_dim=3, **OPTIONS)
    assert np.isnan(loss.apply({}, embeddings, jnp.array([0, 0, 1, 1]), jax.random.key(0))[0])
