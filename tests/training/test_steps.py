"""A step gives equal results on any number of devices, and trains the right subspace."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_models

from dcjax import losses
from dcjax.distributed import devices
from dcjax.division import masks
from dcjax.losses import mining
from dcjax.losses.pairs import References
from dcjax.training import optimizers, rates, state, steps

_RATES = {"backbone": 1e-2, "embedding": 1e-2, "masks": 1e-1, "loss": 1e-2}


@functools.cache
def _parts(dtype: Any) -> tuple[Any, losses.Loss, state.TrainState]:
    """A tiny masked embedder, its loss, and a state after two divisions with different masks."""
    model = small_models.create(dropout=0.3, dtype=dtype)
    loss = losses.create(
        "margin",
        num_classes=6,
        embedding_dim=8,
        beta=1.2,
        margin=0.2,
        nu=0.01,
        learn_beta="per_class",
        miner=mining.create("distance_weighted", dims="active", cutoff=0.5, upper_cutoff=1.4),
    )
    run = state.create(model, loss, _adam(), key=jax.random.key(0), image_size=8, memory_size=48)
    for num_clusters in (2, 4):
        parents = np.where(np.arange(4) < num_clusters, np.arange(4) // 2, -1)
        run = state.rebuild_masks(run, _adam(), parents=parents, kind="learned")
    noise = jax.random.normal(jax.random.key(1), run.masks.shape, dtype)
    run = run.replace(masks=run.masks + 0.3 * noise)
    return model, loss, run.replace(opt_state=_adam().init(run.trainable))


def _adam() -> optax.GradientTransformationExtraArgs:
    return optimizers.create(decay="coupled", weight_decays=dict.fromkeys(_RATES, 1e-4))


def _batch(step: int, clusters_per_step: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {
        "image": rng.integers(0, 256, (clusters_per_step, 16, 8, 8, 3), np.uint8),
        "label": rng.integers(0, 6, (clusters_per_step, 16), np.int32),
        "cluster": rng.integers(0, 4, clusters_per_step, np.int32),
    }


def _controls(*, full: bool = False, memory: bool = True, **rates: float) -> dict[str, Any]:
    learning_rates = {name: jnp.asarray(rate) for name, rate in (_RATES | rates).items()}
    return {
        "learning_rates": learning_rates,
        "full_embedding": jnp.asarray(full),
        "memory": jnp.asarray(memory),
    }


def _one_device_mesh() -> jax.sharding.Mesh:
    return devices.create_mesh(jax.devices()[:1])


def _jitted(
    mesh: jax.sharding.Mesh,
    model: Any,
    loss: losses.Loss,
    optimizer: Any,
    **options: Any,
) -> Callable[..., tuple[state.TrainState, dict[str, jax.Array]]]:
    replicated = devices.replicated(mesh)
    step = functools.partial(
        steps.train_step,
        model=model,
        loss=loss,
        optimizer=optimizer,
        orthogonality_weight=0.1,
        **options,
    )
    shardings = (replicated, devices.batch_shardings(mesh), replicated, replicated)
    return jax.jit(step, in_shardings=shardings, out_shardings=replicated)


@functools.cache
def _one_device_step(dtype: Any) -> Callable[..., Any]:
    """A step that is compiled once for all tests that use it."""
    model, loss, _ = _parts(dtype)
    return _jitted(_one_device_mesh(), model, loss, _adam())


def _three_states(num_devices: int, parallel: int = 1) -> list[state.TrainState]:
    mesh = devices.create_mesh(jax.devices()[:num_devices], cluster_parallel=parallel)
    model, loss, run = _parts(jnp.float64)
    model = model.clone(cluster_parallel=parallel)
    run = jax.device_put(run, devices.replicated(mesh))
    step = _jitted(mesh, model, loss, _adam())
    trained = []
    for number in range(3):
        run, _ = step(run, _batch(number), _controls(), jax.random.key(2))
        trained.append(jax.device_get(run))
    assert step._cache_size() == 1
    return trained


def _gradients(first: state.TrainState) -> list[np.ndarray]:
    """After one step Adam's first moment is 0.1 (gradient + decay)."""
    moments = optax.tree_utils.tree_get_all_with_path(first.opt_state, "mu")
    return [10 * leaf for _, tree in moments for leaf in jax.tree.leaves(tree)]


def _largest_difference(a: Any, b: Any) -> float:
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.max(np.abs(x - y))), a, b)))


@pytest.fixture(scope="module")
def one_device() -> list[state.TrainState]:
    with jax.enable_x64(True):
        return _three_states(1)


@pytest.mark.parametrize(
    ("num_devices", "parallel"),
    [
        pytest.param(2, 2, marks=pytest.mark.long),  # (8, 2) has two cluster batches at once too
        *((4, 1), (8, 2)),
    ],
)
def test_gradients_and_states_equal_those_of_one_device(
    num_devices: int, parallel: int, one_device: list[state.TrainState]
) -> None:
    with jax.enable_x64(True):
        many = _three_states(num_devices, parallel)
    gradients = _gradients(one_device[0])
    assert len(gradients) == len(jax.tree.leaves(one_device[0].trainable))
    assert min(float(np.max(np.abs(leaf))) for leaf in gradients) > 1e-5  # all have a gradient
    assert _largest_difference(gradients, _gradients(many[0])) < 1e-12
    assert _largest_difference(one_device, many) < 1e-12


def _expected_losses(
    model: Any, loss: losses.Loss, run: state.TrainState, batch: Any, key: Any, memories: Any
) -> list[Any]:
    """Returns the loss of each cluster batch of the next step, given its memory."""
    dropout_key, loss_key = jax.random.split(jax.random.fold_in(key, run.step))
    outputs, _ = jax.jit(model.apply, static_argnames=("train", "mutable"))(
        run.variables,
        batch["image"],
        batch["cluster"],
        train=True,
        rngs={"dropout": dropout_key},
        mutable="batch_stats",
    )
    each = zip(
        outputs["embedding"], batch["label"], jax.random.split(loss_key, 2), memories, strict=True
    )
    apply = jax.jit(lambda *four, kept: loss.apply(*four, memory=kept)[0])
    return [apply(run.loss_params, *three, kept=kept) for *three, kept in each]


def test_loss_is_the_mean_over_cluster_batches_in_their_subspaces() -> None:
    with jax.enable_x64(True):
        model, loss, run = _parts(jnp.float64)
        batch, key = _batch(0), jax.random.key(2)
        _, metrics = _one_device_step(jnp.float64)(run, batch, _controls(), key)
        empty = References(
            jnp.zeros((48, 8)), jnp.full(48, -1)
        )  # an empty memory, so that draws have the same shape
        by_hand = _expected_losses(model, loss, run, batch, key, [empty, empty])
        np.testing.assert_allclose(metrics["loss"], np.mean(by_hand), rtol=1e-12)
        np.testing.assert_allclose(
            metrics["orthogonality"], masks.orthogonality(run.masks, 4), rtol=1e-12
        )


def test_memory_gives_each_batch_past_embeddings_of_its_cluster() -> None:
    with jax.enable_x64(True):
        model, loss, run = _parts(jnp.float64)
        step, key = _one_device_step(jnp.float64), jax.random.key(2)
        together = {"cluster": np.array([1, 3], np.int32)}
        run, _ = step(run, _batch(0) | together, _controls(), key)
        np.testing.assert_array_equal(run.memory["clusters"], [1] * 16 + [3] * 16 + [-1] * 16)
        batch = _batch(1) | {"cluster": np.array([3, 0], np.int32)}
        _, metrics = step(run, batch, _controls(), key)
        memories = []
        for c, labels in enumerate([np.r_[[-1] * 16, _batch(0)["label"][1], [-1] * 16], [-1] * 48]):
            mask = jax.nn.relu(run.masks[batch["cluster"][c]])
            rows = masks.apply(run.memory["embeddings"], mask)
            memories.append(References(rows, jnp.asarray(labels)))
        by_hand = _expected_losses(model, loss, run, batch, key, memories)
        np.testing.assert_allclose(metrics["loss"], np.mean(by_hand), rtol=1e-6)
        assert abs(by_hand[0] - by_hand[1]) > 1e-6


@pytest.fixture(scope="module")
def float32() -> tuple[Callable[..., Any], losses.Loss, state.TrainState]:
    """A jitted step, its loss, and a state."""
    _, loss, run = _parts(jnp.float32)
    return _one_device_step(jnp.float32), loss, run


def test_other_masks_get_only_the_orthogonality_gradient(float32: Any) -> None:
    step, _, run = float32
    batch = _batch(0) | {"cluster": np.array([2, 2], np.int32)}
    new, _ = step(run, batch, _controls(), jax.random.key(0))
    (_, moment), *_ = optax.tree_utils.tree_get_all_with_path(
        new.opt_state[0].inner_states["masks"], "mu"
    )
    gradient = 10 * moment["masks"] - 1e-4 * run.masks
    expected = 0.1 * jax.grad(masks.orthogonality)(run.masks, 4)
    same = np.all(np.isclose(gradient, expected, atol=1e-6), axis=1)
    np.testing.assert_array_equal(same, [True, True, False, True])


def test_full_embedding_uses_neither_subspaces_nor_orthogonality(float32: Any) -> None:
    step, _, run = float32
    batch, key = _batch(0), jax.random.key(0)
    full = _controls(full=True, masks=0.0)
    elsewhere = batch | {"cluster": (batch["cluster"] + 1) % 4}
    a, b = (step(run, images, full, key)[0] for images in (batch, elsewhere))
    assert _largest_difference(jax.device_get(a.params), jax.device_get(b.params)) == 0
    np.testing.assert_array_equal(a.masks, run.masks)
    c = step(run, elsewhere, _controls(), key)[0]
    assert _largest_difference(jax.device_get(a.params), jax.device_get(c.params)) > 0


def test_frozen_backbone_does_not_change_and_needs_no_compilation(float32: Any) -> None:
    step, _, run = float32
    frozen, _ = step(run, _batch(0), _controls(backbone=0.0), jax.random.key(0))
    moving, _ = step(run, _batch(0), _controls(), jax.random.key(0))
    assert _largest_difference(frozen.params["backbone"], run.params["backbone"]) == 0
    assert _largest_difference(moving.params["backbone"], run.params["backbone"]) > 0
    assert _largest_difference(frozen.params["embedding"], moving.params["embedding"]) == 0
    assert step._cache_size() == 1


def test_average_follows_the_network_whose_training_it_does_not_change(float32: Any) -> None:
    step, _, run = float32
    model, loss, _ = _parts(jnp.float32)
    averaging = _jitted(_one_device_mesh(), model, loss, _adam(), average_decay=0.8)
    run = jax.device_put(run, devices.replicated(_one_device_mesh()))
    averaged = run.replace(average=run.network)
    expected = run.network
    for number in range(3):
        run, _ = step(run, _batch(number), _controls(), jax.random.key(0))
        averaged, _ = averaging(averaged, _batch(number), _controls(), jax.random.key(0))
        share = 9 / (10 + int(run.step) - 1)
        expected = jax.tree.map(lambda a, x, s=share: (1 - s) * a + s * x, expected, run.network)
    assert averaging._cache_size() == 1
    assert _largest_difference(averaged.replace(average={}), run) == 0
    assert _largest_difference(averaged.average, expected) < 1e-6
    assert _largest_difference(averaged.average, run.network) > 1e-4
    assert _largest_difference(averaged.average["batch_stats"], run.batch_stats) > 1e-4


def test_rates_follow_a_schedule_from_step_to_step_without_compilation() -> None:
    model, loss, run = _parts(jnp.float32)
    schedule = rates.create(num_epochs=3, warmup_epochs=1.5)
    step = _jitted(_one_device_mesh(), model, loss, _adam(), schedule=schedule)
    for number, first_step, num_steps, at, factor in (
        (0, 0, 4, 0, 0),
        (0, 0, 4, 3, 0.5),  # 0.75 epochs
        (1, 4, 10, 9, 1),
        (2, 14, 2, 15, 1),
    ):
        epoch = {
            "number": np.float32(number),
            "first_step": np.int32(first_step),
            "num_steps": np.int32(num_steps),
        }
        before = run.replace(step=jnp.asarray(at, jnp.int32))
        after, _ = step(before, _batch(0), _controls() | {"epoch": epoch}, jax.random.key(0))
        for group, rate in _RATES.items():  # which Adam's first step moves by
            moved = _largest_difference(after.trainable[group], before.trainable[group])
            assert moved == pytest.approx(factor * rate, rel=1e-3)
    assert step._cache_size() == 1


def test_mask_rows_of_unused_clusters_stay_zero(float32: Any) -> None:
    step, _, run = float32
    run = run.replace(masks=masks.initial(4, 8), num_clusters=jnp.ones((), jnp.int32))
    for number in range(3):
        batch = _batch(number) | {"cluster": np.zeros(2, np.int32)}
        run, _ = step(run, batch, _controls(), jax.random.key(0))
    assert np.all(np.asarray(run.masks[1:]) == 0)
    assert np.any(np.asarray(run.masks[0]) != 1)


def test_direct_division_with_fixed_masks_is_the_2019_method() -> None:
    """P19: learner k gets slice [k D/K, (k + 1) D/K) of the embedding, normalised separately."""
    model, _, run = _parts(jnp.float32)
    run = run.replace(masks=masks.initial(4, 8), num_clusters=jnp.ones((), jnp.int32))
    run = state.rebuild_masks(run, _adam(), parents=np.zeros(4, int), kind="fixed")
    images = np.repeat(_batch(0)["image"][:1], 4, axis=0)  # the same for every cluster

    @jax.jit
    def embed(variables: Any) -> jax.Array:
        return model.apply(variables, images, jnp.arange(4))["embedding"]

    embedding = jax.jit(model.apply)(run.variables, images[0])["embedding"]
    embeddings = embed(run.variables)
    of_sums = jax.jit(jax.jacobian(lambda v: jnp.sum(embed(v), axis=(1, 2))))
    gradients = of_sums(run.variables)
    for k in range(4):
        columns = slice(2 * k, 2 * k + 2)
        norms = np.linalg.norm(embedding[:, columns], axis=1, keepdims=True)
        np.testing.assert_allclose(
            embeddings[k][:, columns], embedding[:, columns] / norms, rtol=1e-4
        )
        np.testing.assert_array_equal(np.delete(embeddings[k], columns, axis=1), 0)
        kernel = gradients["params"]["embedding"]["kernel"][k]
        np.testing.assert_array_equal(np.delete(kernel, columns, axis=1), 0)
        assert np.all(np.any(kernel[:, columns] != 0, axis=0))
