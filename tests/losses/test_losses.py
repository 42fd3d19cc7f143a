"""Every loss by name: golden numbers, plain loops, unusual batches and many devices."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from configs import default
from dcjax import losses
from dcjax.distributed import devices
from dcjax.division import masks
from dcjax.experiment import parts
from dcjax.losses import mining
from dcjax.losses.pairs import References
from tests import slow_losses

GOLDEN_FILES = Path(__file__).parents[1] / "golden"
CASES = dict(np.load(GOLDEN_FILES / "losses.npz"))
CASES |= np.load(GOLDEN_FILES / "pytorch_metric_learning.npz")
ALL = mining.create("all")
SEMI_HARD = mining.create("semi_hard", fallback="farthest")
TRIPLET = {"margin": 0.2, "squared": False, "average": "all"}
CONTRASTIVE = {"miner": ALL, "positive_margin": 0.0, "negative_margin": 1.0, "squared": False}
MULTI_SIMILARITY = {"alpha": 2.0, "beta": 50.0, "base": 0.5}
MARGIN = {"beta": 1.2, "margin": 0.2, "nu": 0.0, "learn_beta": "none"}


def _create(name: str, dim: int = 8, **options: Any) -> losses.Loss:
    return losses.create(name, num_classes=20, embedding_dim=dim, **options)


GOLDEN: dict[str, tuple[str, dict[str, Any]]] = {
    "contrastive_linear": ("contrastive", CONTRASTIVE),
    "multi_similarity": ("multi_similarity", {"miner": ALL, **MULTI_SIMILARITY}),
    "triplet_semihard": ("triplet", {"miner": SEMI_HARD, **TRIPLET}),
    "triplet_all_mean_nonzero": ("triplet", {"miner": ALL, **TRIPLET, "average": "nonzero"}),
    "soft_triplet_semihard": ("soft_triplet", {"miner": SEMI_HARD}),
    "npairs_alpha1": ("n_pairs", {"alpha": 1.0, "learn_alpha": True}),
    "npairs_alpha8": ("n_pairs", {"alpha": 8.0, "learn_alpha": False}),
    "circle": ("circle", {}),
    "circle_face": ("circle", {"margin": 0.25, "gamma": 256.0}),
    "circle_mined": ("circle", {"miner": "multi_similarity"}),
}
GOLDEN_KEYS = [key.split("/")[:2] for key in CASES if key.split("/")[1] in GOLDEN and "grad" in key]
BY_LOOPS = {
    "contrastive_squared": _create(
        "contrastive", 4, **CONTRASTIVE | {"negative_margin": 1.2, "squared": True}
    ),
    "supervised_contrastive": _create("supervised_contrastive", 4, temperature=0.1),
    "smooth_ap": _create("smooth_ap", 4, temperature=0.1),
    "recall_at_k": _create("recall_at_k", 4, ks=(1, 2, 4), rank_temperature=1.0, temperature=0.05),
    "triplet_facenet": _create(
        "triplet",
        4,
        miner=mining.create("semi_hard", fallback="none"),
        **TRIPLET | {"squared": True, "average": "nonzero"},
    ),
    "soft_triplet_all": _create("soft_triplet", 4, miner=ALL),
    "margin_hard": _create("margin", 4, miner=mining.create("hard"), **MARGIN),
    "multi_similarity_mined": _create(
        "multi_similarity",
        4,
        miner=mining.create("multi_similarity", epsilon=0.1),
        **MULTI_SIMILARITY,
    ),
    "circle": _create("circle", 4, margin=0.3, gamma=8.0),
    "circle_mined": _create("circle", 4, miner="multi_similarity", margin=0.3, gamma=8.0),
}


def _create_configured(name: str, **changes: Any) -> losses.Loss:
    """Creates a loss with its options in configs/default.py."""
    config = default.get_config()
    config.model.embedding_dim = 8
    config.loss.name = name
    config.update_from_flattened_dict(changes)
    return parts.create_loss(config, np.ones(6, int))


def _value_and_grad(loss: losses.Loss, raw: Any, labels: Any, **more: Any) -> Any:
    """Differentiates a loss by its parameters and by the embeddings before normalisation."""

    def of_raw(params: losses.Params, raw: jax.Array) -> jax.Array:
        key = jax.random.key(0)
        return loss.apply(params, masks.l2_normalize(raw), jnp.asarray(labels), key, **more)[0]

    params = loss.init(jax.random.key(1))
    value, grads = jax.jit(jax.value_and_grad(of_raw, argnums=(0, 1)))(params, raw)
    return value, *grads


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize(("case", "name"), GOLDEN_KEYS)
def test_losses_agree_with_golden_numbers(case: str, name: str, x64: bool) -> None:
    with jax.enable_x64(x64):
        raw = jnp.asarray(CASES[f"{case}/embeddings"], jnp.float64 if x64 else jnp.float32)
        loss_name, options = GOLDEN[name]
        loss = _create(loss_name, raw.shape[1], **options)
        value, _, grad = _value_and_grad(loss, raw, CASES[f"{case}/labels"])
        assert value.dtype == grad.dtype == raw.dtype
    expected = CASES[f"{case}/{name}/grad"]
    # PyTorch's soft-plus is linear from 20 on, which moves circle losses by up to 2e-9.
    rtol = (1e-8 if loss_name == "circle" else 1e-10) if x64 else 1e-5
    np.testing.assert_allclose(value, CASES[f"{case}/{name}/value"], rtol=rtol)
    np.testing.assert_allclose(grad, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize("name", BY_LOOPS)
def test_losses_agree_with_plain_loops(name: str) -> None:
    labels = [0, 0, 0, 1, 1, 1, 1, 2, 2, 3]
    x, direction = np.random.default_rng(5).standard_normal((2, 10, 4))
    x += 1.5 * np.eye(4)[labels]

    now = slow_losses.Batch(x.tolist(), labels)

    def slow(step: float) -> float:
        batch = slow_losses.Batch((x + step * direction).tolist(), labels)
        batch.constants = now.s
        return slow_losses.LOSSES[name](batch)

    with jax.enable_x64(True):
        value, _, grad = _value_and_grad(BY_LOOPS[name], jnp.asarray(x), labels)
    np.testing.assert_allclose(value, slow(0.0), rtol=1e-10)
    assert slow(0.0) > 0
    slope = (slow(1e-6) - slow(-1e-6)) / 2e-6
    np.testing.assert_allclose(np.sum(np.asarray(grad) * direction), slope, rtol=1e-6, atol=1e-9)


BATCHES = {
    "no positive": (np.eye(4), [0, 1, 2, 3]),
    "one class": (np.eye(4), [1, 1, 1, 1]),
    "identical": (np.full((4, 4), 0.5), [0, 0, 1, 1]),
    "duplicates": (np.eye(4)[[0, 0, 1, 0]], [0, 0, 1, 1]),
    "zero": (np.array([[0.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]]), [0, 0, 1, 1]),
    "zeros": (np.zeros((4, 4)), [0, 0, 1, 1]),
    "opposite": (np.array([[1.0, 0, 0, 0], [-1, 0, 0, 0]] * 2), [0, 0, 1, 1]),
    "two, alike": (np.eye(4)[:2], [0, 0]),
    "two, different": (np.eye(4)[:2], [0, 1]),
}
EVERY: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in losses.KNOWN]
EVERY += [("triplet", {"loss.triplet.miner": miner}) for miner in mining.KNOWN]
EVERY += [("margin", {"loss.margin.learn_beta": "per_class", "loss.margin.nu": 0.1})]


@functools.cache
def _jitted(index: int) -> tuple[losses.Loss, Any]:
    name, changes = EVERY[index]
    loss = _create_configured(name, **changes)

    def of_raw(params: losses.Params, raw: jax.Array, labels: jax.Array) -> Any:
        return loss.apply(params, masks.l2_normalize(raw), labels, jax.random.key(0))

    return loss, jax.jit(jax.value_and_grad(of_raw, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize("index", range(len(EVERY)), ids=lambda i: "-".join(map(str, EVERY[i])))
def test_odd_batches_have_finite_values_and_gradients(index: int) -> None:
    loss, value_and_grad = _jitted(index)
    params = loss.init(jax.random.key(1))
    for title, (raw, labels) in BATCHES.items():
        wide = jnp.pad(jnp.asarray(raw, jnp.float32), ((0, 0), (0, 4)))
        results = value_and_grad(params, wide, jnp.array(labels))
        for leaf in jax.tree.leaves(results):
            assert np.all(np.isfinite(leaf)), title


@pytest.mark.parametrize("index", range(len(EVERY)), ids=lambda i: "-".join(map(str, EVERY[i])))
def test_gradients_on_many_devices_equal_those_of_one(index: int) -> None:
    raw = np.random.default_rng(0).standard_normal((16, 8))
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3, 4, 4, 5])
    results = []
    with jax.enable_x64(True):
        loss = _create_configured(*EVERY[index][:1], **EVERY[index][1])
        params = jax.tree.map(lambda x: x.astype(jnp.float64), loss.init(jax.random.key(1)))
        for count in (1, 8):
            mesh = devices.create_mesh(jax.devices()[:count])
            rows = jax.sharding.NamedSharding(mesh, PartitionSpec("data"))
            replicated = devices.replicated(mesh)

            @functools.partial(
                jax.jit, in_shardings=(replicated, rows, rows), out_shardings=replicated
            )
            def value_and_grad(params: Any, raw: Any, labels: Any) -> Any:
                def of_raw(params: Any, raw: Any) -> Any:
                    return loss.apply(params, masks.l2_normalize(raw), labels, jax.random.key(0))[0]

                return jax.value_and_grad(of_raw, argnums=(0, 1))(params, raw)

            results.append(jax.device_get(value_and_grad(params, raw, labels)))
    for one, many in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-12, atol=1e-14)
    assert np.abs(results[0][1][1]).max() > 1e-6


COMPARING = [name for name in losses.KNOWN if "memory" in _create_configured(name).takes]
RANDOM = ("margin",)  # more references change the random draws


@pytest.mark.parametrize("name", COMPARING)
def test_filled_memory_changes_the_loss_and_an_empty_one_does_not(name: str) -> None:
    rng, labels = np.random.default_rng(1), np.array([0, 0, 0, 1, 1, 1, 2, 2])
    raw, kept = (jnp.asarray(rng.standard_normal((n, 8)), jnp.float32) for n in (8, 12))
    loss = _create_configured(name)
    rows, memory_labels = masks.l2_normalize(kept), jnp.arange(12) % 4
    alone, _, alone_grad = _value_and_grad(loss, raw, labels)
    empty = References(rows, jnp.full(12, -1))
    value, _, grad = _value_and_grad(loss, raw, labels, memory=empty)
    if name not in RANDOM:
        np.testing.assert_allclose(value, alone, rtol=1e-6)
        np.testing.assert_allclose(grad, alone_grad, rtol=1e-4, atol=1e-6)
    beside, _, _ = _value_and_grad(loss, raw, labels, memory=References(rows, memory_labels))
    assert abs(beside - alone) > 1e-4


def test_loss_with_a_memory_averages_over_the_batch_rows_only() -> None:
    # 8 images, 5 in the batch and 3 in the memory: the mean is over the 5 anchors of the batch.
    x = masks.l2_normalize(jnp.asarray(np.random.default_rng(2).standard_normal((8, 8))))
    labels = jnp.array([0, 0, 1, 1, 2, 0, 1, 2])
    loss, key = _create("supervised_contrastive", temperature=0.1), jax.random.key(0)
    actual, _ = loss.apply({}, x[:5], labels[:5], key, memory=References(x[5:], labels[5:]))
    batch, rows = slow_losses.Batch(x.tolist(), labels.tolist()), []
    for i in range(5):
        batch.positives = [p if j == i else [] for j, p in enumerate(_positives(labels))]
        rows.append(slow_losses.supervised_contrastive(batch))
    np.testing.assert_allclose(actual, np.mean(rows), rtol=1e-5)


def _positives(labels: jax.Array) -> list[list[int]]:
    y = labels.tolist()
    return [[j for j in range(len(y)) if y[j] == y[i] and j != i] for i in range(len(y))]


@pytest.mark.parametrize("name", losses.KNOWN)
def test_low_precision_is_computed_in_float32(name: str) -> None:
    loss = _create_configured(name)
    rounded = masks.l2_normalize(jax.random.normal(jax.random.key(0), (8, 8))).astype(jnp.bfloat16)
    labels, key = jnp.arange(8) // 2, jax.random.key(0)
    params = loss.init(jax.random.key(1))
    value, _ = loss.apply(params, rounded, labels, key)
    assert value.dtype == jnp.float32
    expected, _ = loss.apply(params, rounded.astype(jnp.float32), labels, key)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("name", [n for n in losses.KNOWN if n != "recall_at_k"])
def test_step_along_the_negative_gradient_lowers_the_loss(name: str) -> None:
    labels = jnp.arange(16) // 4
    raw = jax.random.normal(jax.random.key(3), (16, 8))
    loss = _create_configured(name)
    value, _, grad = _value_and_grad(loss, raw, labels)
    step = 1e-2 / jnp.sqrt(jnp.sum(grad**2))
    lower, _, _ = _value_and_grad(loss, raw - step * grad, labels)
    assert lower < value


def test_learned_alpha_has_a_gradient() -> None:
    loss = _create("n_pairs", alpha=3.5, learn_alpha=True)
    params = loss.init(jax.random.key(0))
    np.testing.assert_array_equal(params["alpha"], 3.5)
    raw = jax.random.normal(jax.random.key(0), (8, 8))
    _, grad, _ = _value_and_grad(loss, raw, np.arange(8) // 2)
    assert grad["alpha"] != 0
    assert _create("n_pairs", alpha=1.0, learn_alpha=False).init(jax.random.key(0)) == {}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hinge", {}, "Unknown loss 'hinge'; known losses are .*margin.*package.module:function"),
        ("soft_triplet", {"miner": "any"}, "Unknown miner 'any'; known are all, distance_weighted"),
        ("soft_triplet", {"miner": 5}, "miner of mining.create or the name of one, got 5"),
        ("soft_triplet", {"margin": 1.0}, "'margin' of loss 'soft_triplet'; known options are min"),
        ("n_pairs", {"alpha": 0.0, "learn_alpha": True}, "alpha of at least 1e-06, got 0.0"),
        ("triplet", {"miner": ALL, **TRIPLET, "margin": -1.0}, "margin of at least 0, got -1.0"),
        ("triplet", {"miner": ALL, **TRIPLET, "average": "sum"}, "average 'sum'.*all, nonzero"),
        ("contrastive", CONTRASTIVE | {"positive_margin": 3.0}, "at least 0 and at most 2, got 3"),
        ("smooth_ap", {"temperature": float("nan")}, "temperature of at least 1e-06, got nan"),
        ("smooth_ap", {"temperature": None}, "temperature of at least 1e-06, got None"),
        ("smooth_ap", {"temperature": "1"}, "temperature of at least 1e-06, got '1'"),
        *(
            ("recall_at_k", {"ks": ks, "rank_temperature": 1.0, "temperature": 0.1}, message)
            for ks, message in ((3, "from 1 on, got 3"), ((1.5,), "every k of ks, .* got 1.5"))
        ),
        (
            "recall_at_k",
            {"ks": (), "rank_temperature": 1.0, "temperature": 0.1},
            r"ks of whole numbers from 1 on, got \(\)",
        ),
    ],
)
def test_errors_name_the_value_and_the_alternatives(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _create(name, **options)


def test_memory_is_refused_by_losses_that_compare_no_pairs() -> None:
    with pytest.raises(ValueError, match="memory_size=64 with loss"):
        _create_configured("proxy_nca", **{"loss.memory_size": 64})
