"""Convolutions as matrix products give the values and gradients of XLA's convolutions."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow_resnet import slow_conv, slow_max_pool

from dcjax.models import cpu_convolution

# Even and odd, down to one pixel; above and below the size at which the method changes.
SIDES = ((1, 1), (2, 3), (4, 5), (7, 8))
EXACT = {"float32": 1e-5, "float64": 1e-12}


def normal(*shape: int, dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def value_and_gradients(job: Callable[..., jax.Array], *inputs: Any) -> Any:
    @jax.jit
    def compute(*inputs: Any) -> Any:
        y, backward = jax.vjp(job, *inputs)
        return y, backward(jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    return compute(*inputs)


def assert_same(actual: Any, expected: Any, exact: float) -> None:
    def same(a: Any, b: Any) -> None:
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=exact * max(1, np.max(np.abs(b))))

    jax.tree.map(same, actual, expected)


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_matmul_convolutions_equal_xla_convolutions(size: int, stride: int, dtype: str) -> None:
    kernel = normal(size, size, 5, 6, dtype=dtype) / size
    jobs = {
        method: functools.partial(cpu_convolution.convolve, stride=stride, method=method)
        for method in ("xla", "matmul")
    }
    with jax.enable_x64(True):
        for sides in SIDES:
            x = normal(4, *sides, 5, dtype=dtype)
            actual = value_and_gradients(jobs["matmul"], x, kernel)
            assert_same(actual, value_and_gradients(jobs["xla"], x, kernel), EXACT[dtype])
            assert_same(actual[0], slow_conv(x, kernel, stride).astype(dtype), EXACT[dtype])


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_in_a_loop_have_the_dimensions_that_xla_is_fast_with(stride: int) -> None:
    """In others, XLA's CPU backend computes them naively, and changes them outside loops only."""
    images, kernel = jnp.zeros((2, 4, 9, 8, 5)), jnp.zeros((3, 3, 5, 6))

    def job(images: jax.Array, kernel: jax.Array) -> jax.Array:
        def convolve(x: jax.Array) -> jax.Array:
            return jnp.sum(cpu_convolution.convolve(x, kernel, stride, "matmul") ** 2)

        return jnp.sum(jax.lax.map(convolve, images))

    text = jax.jit(jax.grad(job, argnums=(0, 1))).lower(images, kernel).compile().as_text()
    dimensions = re.findall(r" convolution\(.*dim_labels=(\S+?),", text + ",")
    assert len(dimensions) == 3  # value and both gradients
    assert set(dimensions) == {"b01f_01io->b01f"}


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("levels", [2, 1000], ids=["ties", "few ties"])
def test_max_pool_gives_its_gradient_to_the_first_maximum(
    sides: tuple[int, int], levels: int
) -> None:
    x = np.random.default_rng(1).integers(0, levels, (3, *sides, 5)).astype(np.float32)
    xla = value_and_gradients(functools.partial(cpu_convolution.max_pool, method="xla"), x)
    actual = value_and_gradients(functools.partial(cpu_convolution.max_pool, method="matmul"), x)
    assert_same(actual, xla, 1e-6)
    np.testing.assert_array_equal(actual[0], slow_max_pool(x))


def test_gradient_of_equal_maxima_equals_hand_computed_values() -> None:
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1].set(1.0)  # the maximum of all four windows
    gradient = jax.grad(lambda x: cpu_convolution.max_pool(x, "matmul").sum())
    np.testing.assert_array_equal(gradient(x)[0, ..., 0], 4 * x[0, ..., 0])
    first = [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]  # the first pixel of each window
    np.testing.assert_array_equal(gradient(0 * x)[0, ..., 0], first)


@pytest.mark.parametrize("job", ["convolve", "max_pool"])
@pytest.mark.parametrize(("backend", "same"), [("cpu", "matmul"), ("gpu", "xla"), ("tpu", "xla")])
def test_auto_depends_on_the_backend(
    job: str, backend: str, same: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, kernel = jnp.zeros((4, 3, 3, 5)), jnp.zeros((3, 3, 5, 6))
    inputs = (x, kernel, 1) if job == "convolve" else (x,)

    def jaxpr(method: str) -> str:
        function = functools.partial(getattr(cpu_convolution, job), method=method)
        return str(jax.make_jaxpr(lambda: function(*inputs))())

    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert jaxpr("auto") == jaxpr(same)
    assert jaxpr("xla") != jaxpr("matmul")
