"""Optimizers with a rate per group, against a plain NumPy Adam and against those of optax."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcjax.core.errors import InputError
from dcjax.models import backbones, vit
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


# Options of `create`, and the optimizer of optax that a group at this rate and decay equals.
_EQUALS: list[tuple[dict[str, Any], Callable[[float, float], optax.GradientTransformation]]] = [
    (
        {"name": "adam", "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-4},
        lambda rate, decay: optax.chain(
            optax.add_decayed_weights(decay), optax.adam(rate, b1=0.8, b2=0.95, eps=1e-4)
        ),
    ),
    (
        {"name": "adamw", "decay": "decoupled", "beta1": 0.8, "epsilon": 1e-4},
        lambda rate, decay: optax.adamw(rate, b1=0.8, eps=1e-4, weight_decay=decay),
    ),
    (
        {"name": "lion", "decay": "decoupled", "beta2": 0.95},
        lambda rate, decay: optax.lion(rate, b2=0.95, weight_decay=decay),
    ),
    (
        {"name": "sgd", "momentum": 0.7, "nesterov": True},
        lambda rate, decay: optax.chain(
            optax.add_decayed_weights(decay), optax.sgd(rate, momentum=0.7, nesterov=True)
        ),
    ),
    (
        {"name": "sgd", "momentum": 0.0, "decay": "decoupled"},
        lambda rate, decay: optax.chain(
            optax.identity(), optax.add_decayed_weights(decay), optax.sgd(rate)
        ),
    ),
]


@pytest.mark.parametrize(("chosen", "reference"), _EQUALS)
def test_three_steps_of_each_group_equal_those_of_optax(
    chosen: dict[str, Any], reference: Callable[[float, float], optax.GradientTransformation]
) -> None:
    optimizer = optimizers.create(weight_decays=DECAYS, **chosen)
    params = random_tree(0)
    opt_state = optimizer.init(params)
    references = {group: reference(RATES[group], DECAYS[group]) for group in optimizers.GROUPS}
    expected = dict(params)
    states = {group: references[group].init(tree) for group, tree in params.items()}
    for seed in (1, 2, 3):
        gradients = random_tree(seed)
        params, opt_state = step(optimizer, params, opt_state, gradients)
        for group, tree in gradients.items():
            updates, states[group] = references[group].update(tree, states[group], expected[group])
            expected[group] = optax.apply_updates(expected[group], updates)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), params, expected
    )


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"name": "adagrad"}, r"optimizer.name 'adagrad'; known are adam, adamw, lion, sgd"),
        (
            {"name": "adamw"},
            r"name=adamw .* \(adam may have either\): require .*=decoupled, got cou",
        ),
        ({"name": "lion"}, "optimizer.name=lion is defined with decoupled .*, got coupled"),
        ({"name": "sgd", "beta1": 0.9}, "Unknown option 'beta1' of optimizer 'sgd'"),
        ({"beta2": 1.0}, "Require beta2 of at least 0 and at most 0.9"),
        ({"clip_norm": -1.0}, "Require optimizer.clip_norm of at least 0, got -1.0"),
    ],
)
def test_contradictory_options_are_an_error(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        optimizers.create(weight_decays=DECAYS, **chosen)


@pytest.mark.parametrize("clip_norm", [0.5, 1e6])
def test_gradients_of_backbone_and_embedding_are_clipped_together(clip_norm: float) -> None:
    sgd = {"name": "sgd", "momentum": 0.0, "weight_decays": dict.fromkeys(DECAYS, 0.0)}
    optimizer, params = optimizers.create(**sgd, clip_norm=clip_norm), random_tree(0)
    gradients = random_tree(1)
    moved, _ = step(optimizer, params, optimizer.init(params), gradients)
    clipped = [gradients[group]["w"] for group in ("backbone", "embedding")]
    norm = np.sqrt(sum(np.sum(gradient.astype(np.float64) ** 2) for gradient in clipped))
    assert 0.5 < norm < 1e6
    for group, gradient in gradients.items():
        factor = min(1, clip_norm / norm) if group in ("backbone", "embedding") else 1
        expected = params[group]["w"] - RATES[group] * factor * gradient["w"]
        np.testing.assert_allclose(moved[group]["w"], expected, rtol=1e-5, atol=1e-7)


def test_clipping_keeps_a_gradient_of_zeros_and_the_tree_of_the_state() -> None:
    chosen = {"name": "adamw", "decay": "decoupled", "weight_decays": DECAYS}
    clipped, plain = optimizers.create(**chosen, clip_norm=1.0), optimizers.create(**chosen)
    params, nothing = random_tree(0), jax.tree.map(np.zeros_like, random_tree(0))
    opt_state = clipped.init(params)
    assert jax.tree.structure(opt_state) == jax.tree.structure(plain.init(params))
    moved, opt_state = step(clipped, params, opt_state, nothing)
    expected, _ = step(plain, params, plain.init(params), nothing)
    jax.tree.map(np.testing.assert_array_equal, moved, expected)
    renewed = optimizers.renew(clipped, opt_state, params, "masks")
    assert adam(renewed, "masks").count == 0


def test_rates_decay_from_the_last_layer_of_a_transformer_to_the_first() -> None:
    factors = backbones.layer_factors("vit_small", 0.5)  # 12 blocks
    assert factors["norm"] == 1
    assert factors["blocks_11"] == 0.5
    assert factors["blocks_0"] == 0.5**12
    first = ("patch_embed", "pos_embed", "cls_token", "reg_token")
    assert [factors[name] for name in first] == [0.5**13] * 4
    module = vit.create("vit_small", registers=1, patch_size=2)
    images = jax.ShapeDtypeStruct((1, 2, 2, 3), jnp.float32)
    initial = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), images)
    assert initial["params"].keys() == factors.keys()

    params = random_tree(0) | {"backbone": {name: np.ones(2, "f") for name in factors}}
    gradients = random_tree(1) | {"backbone": {name: np.ones(2, "f") for name in factors}}
    optimizer = optimizers.create(
        name="adamw", decay="decoupled", weight_decays=DECAYS, layer_factors=factors
    )
    moved, _ = step(optimizer, params, optimizer.init(params), gradients)
    for name, factor in factors.items():  # Adam's first update is 1, and decay is scaled as it is
        expected = -factor * RATES["backbone"] * (1 + DECAYS["backbone"])
        np.testing.assert_allclose(moved["backbone"][name] - 1, expected, rtol=1e-2, atol=1e-7)


def test_layer_decay_of_a_backbone_without_blocks_is_an_error() -> None:
    assert backbones.layer_factors("resnet50", 1.0) == {}
    for name in ("resnet50", "mine:network"):
        with pytest.raises(InputError, match=f"require 1 for model.backbone={name}, got 0.75"):
            backbones.layer_factors(name, 0.75)
