"""Proxies of many classes are sharded by rows; a step holds one [B, rows] matrix."""

import functools
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_models
from jax.sharding import Mesh, NamedSharding

from configs import default
from dcjax import losses
from dcjax.distributed import devices
from dcjax.division import masks
from dcjax.division.division import Division
from dcjax.runs.checkpoints import Checkpoints
from dcjax.training import optimizers, state, steps

NAMES = (
    "arcface",
    "cosface",
    "normalized_softmax",
    "proxy_anchor",
    "proxy_nca",
    "soft_triple",
    "sub_center_arcface",
)
RATES = {"backbone": 1e-2, "embedding": 1e-2, "masks": 1e-1, "loss": 1e-2}
MANY = 65_536
BATCH = 64
MATRIX = 4 * BATCH * MANY  # bytes of a float32 [B, rows] matrix
OPTIMIZER = optimizers.create(decay="coupled", weight_decays=RATES | {"loss": 0.0})


def _create(name: str, num_classes: int, dim: int) -> losses.Loss:
    options = dict(default.get_config().loss[name])
    return losses.create(name, num_classes=num_classes, embedding_dim=dim, **options)


def _mesh(num_devices: int) -> Mesh:
    return devices.create_mesh(jax.devices()[:num_devices])


def _value_and_grads(loss: losses.Loss, mesh: Mesh) -> Any:
    """Returns the jitted function of (params, embeddings, labels, mask), sharded over devices."""
    replicated, rows = devices.replicated(mesh), devices.rows_sharding(mesh)

    def value(params: Any, x: jax.Array, labels: jax.Array, mask: jax.Array) -> Any:
        return loss.apply(params, masks.l2_normalize(x * mask), labels, None, mask=mask)

    return jax.jit(
        jax.value_and_grad(value, argnums=(0, 1, 3), has_aux=True),
        in_shardings=(rows, rows, rows, replicated),
        out_shardings=(replicated, (rows, rows, replicated)),
    )


def _transferred_shapes(compiled: Any) -> list[tuple[int, ...]]:
    """Returns the shapes of the arrays that devices exchange."""
    operation = (
        r"\[([\d,]*)\]\S* (?:all-gather|all-reduce|all-to-all|reduce-scatter|collective-\w+)"
    )
    shapes = re.findall(operation, compiled.as_text())
    return [tuple(map(int, filter(None, shape.split(",")))) for shape in shapes]


def _compile(loss: losses.Loss, num_devices: int) -> Any:
    """Compiles the value and gradients of a batch of embeddings of 4 numbers."""
    lowered = _value_and_grads(loss, _mesh(num_devices)).lower(
        jax.eval_shape(loss.init, jax.random.key(0)),
        jax.ShapeDtypeStruct((BATCH, 4), jnp.float32),
        jax.ShapeDtypeStruct((BATCH,), jnp.int32),
        jax.ShapeDtypeStruct((4,), jnp.float32),
    )
    return lowered.compile()


@pytest.mark.parametrize("num_devices", [1, 8])
@pytest.mark.parametrize("name", NAMES)
def test_each_device_holds_its_shard_of_one_matrix(name: str, num_devices: int) -> None:
    loss = _create(
        name, MANY - 5, 4
    )  # with few coordinates, proxies are small compared to the matrix
    compiled = _compile(loss, num_devices)
    matrices = {"soft_triple": 10, "sub_center_arcface": 3}.get(name, 1)
    used = compiled.memory_analysis().temp_size_in_bytes
    assert used < 1.5 * matrices * MATRIX / num_devices
    moved = _transferred_shapes(compiled)
    assert bool(moved) == (num_devices > 1)
    assert all(np.prod(shape) <= 4 * BATCH * 10 for shape in moved)  # embeddings, own centers


def test_each_size_of_the_embedding_adds_one_sharded_matrix() -> None:
    loss = losses.create("cosface", num_classes=MANY - 5, embedding_dim=4, matryoshka=(2, 3))
    compiled = _compile(loss, 8)
    assert compiled.memory_analysis().temp_size_in_bytes < 1.5 * 3 * MATRIX / 8
    assert all(np.prod(shape) <= 4 * BATCH * 10 for shape in _transferred_shapes(compiled))


@functools.cache
def _example(name: str, num_devices: int) -> Any:
    """Returns loss, scalars and gradients of 1,025 classes in float64."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        loss = _create(name, 1025, 6)
        arguments = (
            loss.init(jax.random.key(0)),
            rng.normal(size=(16, 6)),
            rng.integers(0, 1025, 16),
            np.array([1.0, 0.3, 0.0, 2.0, 1.0, 0.5]),
        )
        results = _value_and_grads(loss, _mesh(num_devices))(*arguments)
        (rows,) = results[1][0].values()
        assert rows.addressable_shards[0].data.shape[0] == 1152 / num_devices
        return jax.device_get(results)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_on_many_devices_equal_those_of_one(name: str) -> None:
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-15)
    jax.tree.map(compare, _example(name, 8), _example(name, 1))


def _parts(num_classes: int, dim: int, dtype: Any) -> tuple[Any, losses.Loss]:
    model = small_models.create(embedding_dim=dim, max_clusters=2, dtype=dtype)
    return model, _create("normalized_softmax", num_classes, dim)


def _draw(model: Any, loss: losses.Loss, mesh: Mesh) -> tuple[Any, state.TrainState]:
    """Returns the function that draws a state on the devices, and the state's shardings."""
    create = functools.partial(
        state.create,
        model,
        loss,
        OPTIMIZER,
        key=jax.random.key(0),
        image_size=8,
        memory_size=0,
    )
    shardings = state.shardings(jax.eval_shape(create), mesh)
    return jax.jit(create, out_shardings=shardings), shardings


def _step(model: Any, loss: losses.Loss, mesh: Mesh, shardings: state.TrainState) -> Any:
    replicated = devices.replicated(mesh)
    step = functools.partial(
        steps.train_step,
        model=model,
        loss=loss,
        optimizer=OPTIMIZER,
        orthogonality_weight=0.1,
    )
    return jax.jit(
        step,
        in_shardings=(shardings, devices.batch_shardings(mesh), replicated, replicated),
        out_shardings=(shardings, replicated),
        donate_argnums=0,
    )


def _batch(num_classes: int, clusters_per_step: int, batch_size: int) -> dict[str, np.ndarray]:
    rng, shape = np.random.default_rng(0), (clusters_per_step, batch_size)
    return {
        "image": rng.integers(0, 256, (*shape, 8, 8, 3), np.uint8),
        "label": rng.integers(0, num_classes, shape, np.int32),
        "cluster": np.arange(clusters_per_step, dtype=np.int32) % 2,
    }


def _controls(**rates: float) -> dict[str, Any]:
    learning_rates = {name: jnp.asarray(rate) for name, rate in (RATES | rates).items()}
    off = jnp.asarray(False)
    return {"learning_rates": learning_rates, "full_embedding": off, "memory": off}


def _shares(run: state.TrainState) -> list[Any]:
    """Returns the proxies and both of their Adam moments."""
    paths = jax.tree_util.tree_leaves_with_path(run)
    return [leaf for path, leaf in paths if "proxies" in jax.tree_util.keystr(path)]


def _train(num_devices: int) -> list[state.TrainState]:
    """Returns states before and after a division, each after two steps."""
    mesh = _mesh(num_devices)
    model, loss = _parts(1025, 8, jnp.float64)
    draw, shardings = _draw(model, loss, mesh)
    step, run, batch = _step(model, loss, mesh, shardings), draw(), _batch(1025, 2, 16)
    trained = []
    for clusters in (1, 2):
        for _ in range(2):
            batch["cluster"] %= clusters
            run, _ = step(run, batch, _controls(), jax.random.key(1))
        trained.append(jax.device_get(run))
        before = jax.device_get(_shares(run))
        parents = np.zeros(len(run.masks), int)
        run = state.rebuild_masks(run, OPTIMIZER, parents=parents, kind="learned")
        run = jax.device_put(run, shardings)
        shares = _shares(run)
        assert len(shares) == 3
        for array, old in zip(shares, before, strict=True):
            assert array.addressable_shards[0].data.shape == (1152 // num_devices, 8)
            np.testing.assert_array_equal(array, old)
    assert step._cache_size() == 1
    return trained


def test_training_across_a_division_equals_that_of_one_device() -> None:
    with jax.enable_x64(True):
        one, eight = _train(1), _train(8)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)
    jax.tree.map(compare, eight, one)


@pytest.mark.parametrize("clusters_per_step", [1, 2])
def test_training_step_transfers_no_array_over_all_classes(clusters_per_step: int) -> None:
    mesh = _mesh(8)
    model, loss = _parts(MANY, 4, jnp.float32)
    draw, shardings = _draw(model, loss, mesh)
    arguments = (
        jax.eval_shape(draw),
        _batch(MANY, clusters_per_step, BATCH),
        _controls(),
        jax.random.key(0),
    )
    compiled = _step(model, loss, mesh, shardings).lower(*arguments).compile()
    moved = _transferred_shapes(compiled)
    assert moved
    assert not [shape for shape in moved if max(shape, default=0) >= MANY // 8]
    used = compiled.memory_analysis().temp_size_in_bytes
    assert used < 1.5 * clusters_per_step * MATRIX / 8


def test_only_per_class_parameters_are_sharded() -> None:
    mesh = _mesh(8)
    shapes = {(1152, 4): True, (1152,): False, (1000, 4): False, (1028, 4): False, (): False}
    is_sharded = {
        shape: not devices.table_sharding(mesh, shape).is_fully_replicated for shape in shapes
    }
    assert is_sharded == shapes
    _, shardings = _draw(*_parts(1025, 8, jnp.float32), mesh)
    sharded = [leaf for leaf in jax.tree.leaves(shardings) if not leaf.is_fully_replicated]
    assert sharded == _shares(shardings) == [devices.rows_sharding(mesh)] * 3


def test_proxies_are_updated_at_the_learning_rate_of_the_loss() -> None:
    mesh = _mesh(8)
    model, loss = _parts(1025, 8, jnp.float32)
    draw, shardings = _draw(model, loss, mesh)
    step, start = _step(model, loss, mesh, shardings), np.asarray(draw().loss_params["proxies"])
    moves = {}
    for rate in (0.0, 1e-3):
        run, _ = step(draw(), _batch(1025, 1, 16), _controls(loss=rate), jax.random.key(0))
        moves[rate] = np.abs(run.loss_params["proxies"] - start)
    assert np.max(moves[0.0]) == 0
    np.testing.assert_allclose(np.max(moves[1e-3]), 1e-3, rtol=1e-2)  # Adam's first step
    np.testing.assert_array_equal(moves[1e-3][1025:], 0)


@pytest.mark.parametrize("num_devices", [pytest.param(1, marks=pytest.mark.long), 4])
def test_run_continues_on_another_number_of_devices(tmp_path: Path, num_devices: int) -> None:
    parts = _parts(1025, 8, jnp.float32)
    draw, shardings = _draw(*parts, _mesh(8))
    run, _ = _step(*parts, _mesh(8), shardings)(
        draw(), _batch(1025, 1, 16), _controls(), jax.random.key(0)
    )
    clusters = Division(np.zeros(3, np.int32), np.zeros(1, np.int32), 0)
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(run, clusters, {}, None)
    checkpoints.wait()

    draw, shardings = _draw(*parts, _mesh(num_devices))

    def placed(x: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    abstract_state = jax.tree.map(placed, jax.eval_shape(draw), shardings)
    restored, _ = checkpoints.restore(1, abstract_state)
    jax.tree.map(np.testing.assert_array_equal, restored, run)
    assert jax.tree.map(lambda x: x.sharding, restored) == shardings
    checkpoints.close()
