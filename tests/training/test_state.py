"""A division changes the masks and their moments, and nothing else of the training state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_models

from dcjax import losses
from dcjax.losses import mining
from dcjax.training import optimizers, state

OPTIMIZER = optimizers.create(decay="coupled", weight_decays=dict.fromkeys(optimizers.GROUPS, 0.1))
PARENTS = ([0], [0, 0], [0, 0, 1, 1])  # K = 1, 2, 4


MODEL = small_models.create()
LOSS = losses.create(
    "margin",
    num_classes=5,
    embedding_dim=8,
    beta=1.2,
    margin=0.2,
    nu=0.0,
    learn_beta="per_class",
    miner=mining.create("distance_weighted", dims="full", cutoff=0.5, upper_cutoff=1.4),
)


@jax.jit
def create(key: jax.Array) -> state.TrainState:
    return state.create(MODEL, LOSS, OPTIMIZER, key=key, image_size=8, memory_size=0)


def initial_state(seed: int = 0) -> state.TrainState:
    return create(jax.random.key(seed))


@jax.jit
def train_once(run: state.TrainState) -> state.TrainState:
    """Returns the state after one update with random gradients and new running statistics."""
    gradients = jax.tree.map(lambda x: jnp.sin(run.step + x.size + 10 * x), run.trainable)
    exists = jnp.arange(len(run.masks)) < run.num_clusters
    gradients["masks"] = jnp.where(exists[:, None], gradients["masks"], 0)
    updates, opt_state = OPTIMIZER.update(
        gradients, run.opt_state, run.trainable, learning_rates=dict.fromkeys(run.trainable, 0.1)
    )
    moved = optax.apply_updates(run.trainable, updates)
    return run.replace(
        step=run.step + 1,
        params={group: moved[group] for group in run.params},
        masks=moved["masks"],
        loss_params=moved["loss"],
        batch_stats=jax.tree.map(lambda x: x + 0.5, run.batch_stats),
        opt_state=opt_state,
    )


def divide(run: state.TrainState, parents: list[int], kind: str) -> state.TrainState:
    padded = np.array(parents + [-1] * (len(run.masks) - len(parents)), np.int32)
    return state.rebuild_masks(run, OPTIMIZER, parents=padded, kind=kind)


def assert_same(actual: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_initial_state_has_one_cluster_and_depends_on_the_key() -> None:
    run = initial_state()
    assert (run.step, run.num_clusters) == (0, 1)
    np.testing.assert_array_equal(run.masks, np.eye(4)[:, :1] * np.ones(8))
    assert set(run.trainable) == set(optimizers.GROUPS)
    assert run.trainable["loss"]["beta"].shape == (5,)
    assert_same(initial_state(), run)
    kernels = [s.params["embedding"]["kernel"] for s in (run, initial_state(seed=1))]
    assert np.all(kernels[0] != kernels[1])


def test_fixed_masks_are_consecutive_blocks() -> None:
    run = initial_state()
    for parents in PARENTS:
        run = divide(run, parents, "fixed")
        size = 8 // len(parents)
        blocks = np.kron(np.eye(4, len(parents)), np.ones(size))
        np.testing.assert_array_equal(run.masks, blocks)
        assert run.num_clusters == len(parents)


def test_learned_masks_start_as_their_parents_and_unused_rows_stay_zero() -> None:
    run = initial_state()
    for parents in PARENTS:
        before = train_once(run)
        run = divide(before, parents, "learned")
        np.testing.assert_array_equal(run.masks[: len(parents)], before.masks[np.array(parents)])
        np.testing.assert_array_equal(run.masks[len(parents) :], 0)
        assert run.num_clusters == len(parents)


@pytest.mark.parametrize("kind", ["learned", "fixed"])
def test_division_resets_mask_moments_and_keeps_everything_else(kind: str) -> None:
    run = initial_state()
    for parents in PARENTS:
        before = train_once(train_once(run))
        run = divide(before, parents, kind)
        for name in ("step", "params", "loss_params", "batch_stats"):
            assert_same(getattr(run, name), getattr(before, name))
        old, new = (s.opt_state[0].inner_states for s in (before, run))
        for group in ("backbone", "embedding", "loss"):
            assert_same(new[group], old[group])
        assert any(np.any(leaf) for leaf in jax.tree.leaves(old["masks"]))
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(new["masks"]))


def test_averages_of_masks_are_inherited_as_the_masks_are() -> None:
    run = initial_state()
    run = run.replace(average={**run.network, "masks": 3 * run.masks})
    for parents in PARENTS:
        before = np.asarray(run.average["masks"])
        run = divide(run.replace(masks=0.5 * run.masks), parents, "learned")
        np.testing.assert_array_equal(run.average["masks"][: len(parents)], before[parents])
        np.testing.assert_array_equal(run.average["masks"][len(parents) :], 0)
        assert_same(run.average["params"], run.params)
    assert np.all(np.asarray(run.average["masks"]) != run.masks)
    run = divide(run, [0, 0, 1, 1], "fixed")
    np.testing.assert_array_equal(run.average["masks"] != 0, run.masks != 0)


def test_average_is_evaluated_in_place_of_the_network() -> None:
    run = initial_state()
    assert_same(run.evaluated_variables, run.variables)
    average = jax.tree.map(lambda x: x + 1, run.network)
    run = run.replace(average=average)
    assert_same(run.evaluated_variables["params"], average["params"])
    assert_same(run.evaluated_variables["masks"]["masks"], average["masks"])
    assert_same(run.evaluated_variables["batch_stats"], average["batch_stats"])
    assert_same(run.variables["params"], run.params)


def test_division_changes_no_shape_or_dtype() -> None:
    run = initial_state()
    expected = jax.tree.map(jax.typeof, run)
    for parents in PARENTS:
        run = divide(run, parents, "learned")
        assert jax.tree.map(jax.typeof, run) == expected


def test_variables_are_the_collections_of_the_model() -> None:
    run = initial_state()
    assert set(run.variables) == {"params", "masks", "batch_stats"}
    assert set(run.variables["params"]) == {"backbone", "embedding"}
    assert run.variables["masks"]["masks"] is run.masks


def test_weakly_typed_parameter_gets_a_definite_dtype():
    loss = losses.Loss(lambda key: {"boundary": jnp.asarray(0.5)}, max)
    run = jax.eval_shape(
        lambda: state.create(
            MODEL, loss, OPTIMIZER, key=jax.random.key(0), image_size=8, memory_size=0
        )
    )
    assert jnp.asarray(0.5).weak_type
    assert not run.loss_params["boundary"].weak_type
