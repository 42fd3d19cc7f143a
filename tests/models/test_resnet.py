"""The ResNet equals torchvision's, layer by layer, with every convolution method."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
from flax import linen as nn
from slow_resnet import random_variables, slow_resnet

from dcjax.models import cpu_convolution, pretrained
from dcjax.models.resnet import BACKBONES, BasicBlock, Bottleneck, Conv, FrozenNorm, ResNet

GOLDEN = Path(__file__).parents[1] / "golden" / "resnet.npz"
BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


def resnet(block: str, stage_sizes: tuple[int, ...] = (2, 1, 1), **changes: Any) -> ResNet:
    options = {
        "stem": "imagenet",
        "width": 4,
        "frozen_statistics": True,
        "convolution": "auto",
    } | changes
    return ResNet(block=BLOCKS[block], stage_sizes=stage_sizes, **options)


def shapes_of(net: ResNet, x: np.ndarray) -> Any:
    return jax.eval_shape(functools.partial(net.init, train=False), jax.random.key(0), x)


def stages(net: ResNet, variables: Any, x: np.ndarray, train: bool = True) -> list[jax.Array]:
    apply = functools.partial(net.apply, train=train, capture_intermediates=True)
    _, captured = jax.jit(functools.partial(apply, mutable="intermediates"))(variables, x)
    names = [f"layer{stage}_{size - 1}" for stage, size in enumerate(net.stage_sizes, 1)]
    return [captured["intermediates"][name]["__call__"][0] for name in names]


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize("block", BLOCKS)
def test_every_stage_equals_the_plain_resnet(block: str, size: int) -> None:
    net = resnet(block, dtype=jnp.float64, param_dtype=jnp.float64)
    x = np.random.default_rng(0).normal(size=(1, size, size, 3))
    with jax.enable_x64(True):
        shapes = shapes_of(net, x)
        variables = random_variables(shapes)
        outputs = stages(net, variables, x)
    for stage, expected in zip(outputs, slow_resnet(x, net, variables), strict=True):
        np.testing.assert_allclose(stage, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [64, 65])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_every_stage_agrees_with_pytorch(name: str, size: int, tmp_path: Path) -> None:
    """Compares with the numbers of benchmarks/golden_resnet.py for equal weights and image."""
    block, stage_sizes, stem = BACKBONES[name]
    net = ResNet(block, stage_sizes, stem, 64, frozen_statistics=True, convolution="auto")
    np.savez(tmp_path / "weights.npz", **published.draw(published.shapes(name)))
    x = published.images(size)
    shapes = shapes_of(net, x)
    params, stats = pretrained.load(
        str(tmp_path / "weights.npz"), shapes["params"], shapes["batch_stats"], download=False
    )
    golden = np.load(GOLDEN)
    for train in (True, False):
        outputs = stages(net, {"params": params, "batch_stats": stats}, x, train=train)
        for number, stage in enumerate(outputs, 1):
            maps, means = (
                golden[f"{name}/{size}/layer{number}/{kind}"] for kind in ("maps", "means")
            )
            every = stage.shape[-1] // maps.shape[-1]
            np.testing.assert_allclose(stage[0, ..., ::every], maps, 1e-4, 1e-5)
            np.testing.assert_allclose(stage.mean((0, 1, 2)), means, 1e-4, 1e-5)


def variables_of(net: ResNet, x: np.ndarray) -> Any:
    variables = random_variables(shapes_of(net, x))
    return jax.tree.map(lambda values: jnp.asarray(values, net.dtype), variables)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("block", BLOCKS)
def test_every_convolution_gives_the_same_numbers_and_gradients(block: str, frozen: bool) -> None:
    x = np.random.default_rng(0).normal(size=(4, 40, 40, 3))
    weights = np.random.default_rng(1).normal(size=(3, 3, 1))
    results = []
    with jax.enable_x64(True):
        for method in ("xla", "matmul"):
            net = resnet(
                block,
                convolution=method,
                frozen_statistics=frozen,
                dtype=jnp.float64,
                param_dtype=jnp.float64,
            )
            variables = variables_of(net, x)

            def objective(params: Any, net: ResNet = net, variables: Any = variables) -> Any:
                changed = variables | {"params": params}
                features, updated = net.apply(changed, x, train=True, mutable="batch_stats")
                return (features * weights).sum(), (features, updated)

            gradient = jax.jit(jax.grad(objective, has_aux=True))
            results.append(jax.device_get(gradient(variables["params"])))
    xla, matmul = results
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-10), matmul, xla)
    assert all(np.any(gradient != 0) for gradient in jax.tree.leaves(xla[0]))


@pytest.mark.parametrize("block", BLOCKS)
def test_every_convolution_gives_the_same_numbers_in_float32(block: str) -> None:
    x = np.random.default_rng(0).normal(size=(4, 64, 64, 3)).astype(np.float32)
    net = resnet(block, (2, 2, 2, 2), convolution="xla")
    variables = variables_of(net, x)
    *_, expected = stages(net, variables, x)
    *_, actual = stages(net.clone(convolution="matmul"), variables, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.max(np.abs(expected)))


def test_kernels_are_initialised_as_by_flax() -> None:
    x, key = jnp.zeros((1, 9, 9, 5)), jax.random.key(3)
    init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    stock = nn.Conv(6, (3, 3), use_bias=False, kernel_init=init).init(key, x)
    for method in cpu_convolution.METHODS:
        ours = Conv(6, 3, 1, method, jnp.float32).init(key, x)
        jax.tree.map(np.testing.assert_array_equal, ours, stock)


def test_variables_do_not_depend_on_convolution_method_or_frozen_norms() -> None:
    x = jnp.zeros((1, 16, 16, 3))
    fresh = [
        jax.jit(functools.partial(resnet("bottleneck", convolution=method).init, train=train))(
            jax.random.key(0), x
        )
        for method, train in (("xla", False), ("matmul", False), ("matmul", True))
    ]
    for other in fresh[1:]:
        jax.tree.map(np.testing.assert_array_equal, other, fresh[0])


def test_frozen_statistics_in_float32_do_not_make_a_float64_network_inexact() -> None:
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=16) for name in ("scale", "bias")}
    statistics = {name: rng.random(16).astype(np.float32) for name in ("mean", "var")}
    with jax.enable_x64(True):
        norm = FrozenNorm(16, jnp.float64)
        factor, shift = norm.apply({"params": params, "batch_stats": statistics})
    expected = params["scale"] / np.sqrt(statistics["var"].astype(np.float64) + 1e-5)
    np.testing.assert_allclose(factor, expected, rtol=1e-14)
    np.testing.assert_allclose(shift, params["bias"] - statistics["mean"] * expected, atol=1e-14)
