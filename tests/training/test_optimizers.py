"""Adam with a learning rate per group and coupled decay, against a plain NumPy Adam."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcjax.training import optimizers

DECAYS = {"backbone": 0.1, "embedding": 0.02, "masks": 0.3, "loss": 0.0}
RATES = {"backbone": 1e-3, "embedding": 1e-2, "masks": 0.1, "loss": 0.03}

Tree = dict[str, Any]


def random_tree(seed: int) -> Tree:
    rng = np.random.default_rng(seed)
    shapes = {"backbone": (3, 4), "embedding": (4,), "masks": (2, 5), "loss": ()}
    return {group: {"w": rng.normal(size=s).astype("f")} for group, s in shapes.items()}


def constant_tree(value: float) -> Tree:
    return {group: jnp.full(3, value, jnp.float32) for group in optimizers.GROUPS}


def create(decay: str = "coupled", factor: float | None = None) -> Any:
    decays = DECAYS if factor is None else dict.fromkeys(DECAYS, factor)
    return optimizers.create(decay=decay, weight_decays=decays)


def step(optimizer: Any, params: Tree, opt_state: Any, gradients: Tree, **rates: float) -> Any:
    rates = {group: jnp.float32(rate) for group, rate in (RATES | rates).items()}
    updates, opt_state = optimizer.update(gradients, opt_state, params, learning_rates=rates)
    return optax.apply_updates(params, updates), opt_state


def adam(opt_state: Any, group: str) -> optax.ScaleByAdamState:
    leaves = jax.tree.leaves(
        opt_state[0].inner_states[group],
        is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState),
    )
    return next(leaf for leaf in leaves if isinstance(leaf, optax.ScaleByAdamState))


def slow_adam(
    param: np.ndarray, gradients: list[np.ndarray], rates: list[float], decay: str, factor: float
) -> np.ndarray:
    """PyTorch's formula: epsilon is added after the bias correction."""
    param, mean, square = np.float64(param), np.float64(0), np.float64(0)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        g = gradient + factor * param if decay == "coupled" else gradient
        mean = 0.9 * mean + 0.1 * g
        square = 0.999 * square + 0.001 * g**2
        update = mean / (1 - 0.9**t) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
        update = update + (factor * param if decay == "decoupled" else 0)
        param = param - rate * update
    return param


@pytest.mark.parametrize("decay", optimizers.DECAYS)
@pytest.mark.parametrize("backbone_rates", [[0.1, 0.1, 0.1], [0.1, 0.0, 0.2], [0.0, 0.0, 0.1]])
def test_three_steps_equal_those_of_plain_adam(decay: str, backbone_rates: list[float]) -> None:
    optimizer, start = create(decay), random_tree(0)
    gradients = [random_tree(seed) for seed in (1, 2, 3)]
    for gradient in gradients:
        gradient["loss"]["w"] = gradient["loss"]["w"] * 1e-7  # so small that epsilon matters
    params, opt_state = start, optimizer.init(start)
    for gradient, rate in zip(gradients, backbone_rates, strict=True):
        params, opt_state = step(optimizer, params, opt_state, gradient, backbone=rate)
    for group in optimizers.GROUPS:
        rates = backbone_rates if group == "backbone" else [RATES[group]] * 3
        of_group = [gradient[group]["w"] for gradient in gradients]
        expected = slow_adam(start[group]["w"], of_group, rates, decay, DECAYS[group])
        np.testing.assert_allclose(params[group]["w"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decay", optimizers.DECAYS)
def test_learning_rate_zero_keeps_parameters_but_updates_moments(decay: str) -> None:
    optimizer, start = create(decay), random_tree(0)
    params, opt_state = start, optimizer.init(start)
    for seed in (1, 2):
        before = adam(opt_state, "backbone")
        params, opt_state = step(optimizer, params, opt_state, random_tree(seed), backbone=0.0)
        after = adam(opt_state, "backbone")
        assert after.count == before.count + 1
        assert np.all(after.mu["backbone"]["w"] != before.mu["backbone"]["w"])
    np.testing.assert_array_equal(params["backbone"]["w"], start["backbone"]["w"])
    assert np.all(params["embedding"]["w"] != start["embedding"]["w"])


def test_freezing_a_group_does_not_recompile() -> None:
    optimizer, params = create(), random_tree(0)
    traces = []

    @jax.jit
    def update(params: Tree, opt_state: Any, rates: dict[str, jax.Array]) -> Any:
        traces.append(1)
        return optimizer.update(random_tree(1), opt_state, params, learning_rates=rates)

    for rate in (0.0, 1.0):
        update(params, optimizer.init(params), {group: jnp.float32(rate) for group in RATES})
    assert len(traces) == 1


def test_renewal_resets_one_group_whose_next_update_has_the_learning_rate() -> None:
    optimizer, params = create(factor=0.0), random_tree(0)
    opt_state = optimizer.init(params)
    for seed in (1, 2, 3):
        params, opt_state = step(optimizer, params, opt_state, random_tree(seed))
    renewed = optimizers.renew(optimizer, opt_state, params, "masks")
    fresh = adam(renewed, "masks")
    assert [float(np.abs(x).sum()) for x in jax.tree.leaves(fresh)] == [0, 0, 0]  # count, mu, nu
    assert jax.tree.structure(renewed) == jax.tree.structure(opt_state)
    for group in ("backbone", "embedding", "loss"):
        before, after = (s[0].inner_states[group] for s in (opt_state, renewed))
        jax.tree.map(np.testing.assert_array_equal, before, after)
    gradients = random_tree(4)
    moved, _ = step(optimizer, params, renewed, gradients)
    first = moved["masks"]["w"] - params["masks"]["w"]
    np.testing.assert_allclose(first, -RATES["masks"] * np.sign(gradients["masks"]["w"]), 1e-4)


@pytest.mark.parametrize("factor", [1e-4, 1e-2])
def test_coupled_decay_alone_moves_a_coordinate_by_the_learning_rate(factor: float) -> None:
    optimizer, params = create(factor=factor), constant_tree(0.5)
    opt_state = optimizer.init(params)
    for _ in range(30):
        params, opt_state = step(optimizer, params, opt_state, constant_tree(0.0), masks=1e-3)
    np.testing.assert_allclose(params["masks"], 0.470, atol=1e-3)


def test_coupled_decay_revives_a_dead_coordinate_and_decoupled_does_not() -> None:
    highest = {}
    for decay in optimizers.DECAYS:
        optimizer, params = create(decay, factor=1e-4), constant_tree(-0.003)
        opt_state = optimizer.init(params)
        highest[decay] = -1.0
        for _ in range(10):
            params, opt_state = step(optimizer, params, opt_state, constant_tree(0.0), masks=1e-3)
            highest[decay] = max(highest[decay], float(params["masks"].max()))
    assert highest["coupled"] > 0
    assert -0.003 <= highest["decoupled"] < -0.00299


@pytest.mark.parametrize("decay", optimizers.DECAYS)
def test_masks_of_unused_clusters_stay_zero(decay: str) -> None:
    optimizer, params = create(decay), random_tree(0)
    params["masks"]["w"][1] = 0
    opt_state = optimizer.init(params)
    for seed in (1, 2, 3):
        gradients = random_tree(seed)
        gradients["masks"]["w"][1] = 0
        params, opt_state = step(optimizer, params, opt_state, gradients)
    assert np.all(params["masks"]["w"][0] != 0)
    np.testing.assert_array_equal(params["masks"]["w"][1], 0)


def test_loss_without_parameters_needs_no_optimizer_state() -> None:
    optimizer, params = create(), random_tree(0) | {"loss": {}}
    gradients = random_tree(1) | {"loss": {}}
    moved, _ = step(optimizer, params, optimizer.init(params), gradients)
    assert moved["loss"] == {}


def test_unknown_decay_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'l2'; known are coupled, decoupled"):
        create("l2")
