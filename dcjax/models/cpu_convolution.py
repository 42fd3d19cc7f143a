"""Convolutions and max-pooling of a ResNet, by XLA's operations or by faster ones for CPUs.

XLA's CPU backend multiplies matrices as fast as PyTorch, but it is slow in the gradient of
max-pooling, in the gradient of the kernels of 1 x 1 convolutions, and in convolutions of small
maps; see docs/performance.md. These are computed here as matrix products and elementwise
operations.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

METHODS = ("auto", "xla", "matmul")

# Largest side of an output map, in pixels, for which products of patches are faster than XLA's
# convolution and its gradients: at 2 x 2 about 100 times.
_SMALL_MAP = 3
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def is_native(method: str) -> bool:
    """Returns whether a method, one of `METHODS`, means XLA's own operations on this backend."""
    return method == "xla" or (method == "auto" and jax.default_backend() != "cpu")


def convolve(x: jax.Array, kernel: jax.Array, stride: int, method: str) -> jax.Array:
    """Convolves images with padding of size // 2 on each side, as PyTorch's networks do.

    Args:
      x: [n, h, w, c].
      kernel: [size, size, c, d], of odd size.
      stride: of rows and columns.
      method: "xla", "matmul" or "auto", which is "matmul" on a CPU. All give the same numbers.

    Returns:
      [n, ceil(h / stride), ceil(w / stride), d].
    """
    if is_native(method):
        return _native_convolve(x, kernel, stride)
    size, side = len(kernel), -(-max(x.shape[1:3]) // stride)
    if size > 1 and side > _SMALL_MAP:
        return _convolve(x, kernel, stride)
    return _patches(x, size, stride) @ kernel.reshape(-1, kernel.shape[-1])


def max_pool(x: jax.Array, method: str) -> jax.Array:
    """Computes the maxima of 3 x 3 windows with stride 2 and padding 1.

    Maps [n, h, w, c] to [n, ceil(h / 2), ceil(w / 2), c]; method as in `convolve`. The gradient
    goes to the first maximum of a window, row by row.
    """
    return (_native_max_pool if is_native(method) else _max_pool)(x)


def _patches(x: jax.Array, size: int, stride: int) -> jax.Array:
    """Concatenates the inputs of each output pixel: [n, h, w, c] to [n, h', w', size size c]."""
    n, *sides, channels = x.shape
    around = (size // 2, size // 2)
    x = jnp.pad(x, [(0, 0), around, around, (0, 0)])
    spans = [(side - 1) // stride * stride + 1 for side in sides]
    taps = [
        lax.slice(
            x, (0, i, j, 0), (n, i + spans[0], j + spans[1], channels), (1, stride, stride, 1)
        )
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(taps, axis=-1)


def _native_convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    around = (len(kernel) // 2, len(kernel) // 2)
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [around, around], dimension_numbers=_DIMENSIONS
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return _native_convolve(x, kernel, stride)


def _convolve_forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, Any]:
    return _native_convolve(x, kernel, stride), (x, kernel)


def _convolve_backward(
    stride: int, inputs: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients of images and kernel, the same convolutions as JAX's own.

    They have their dimensions in the order in which XLA's CPU backend is fast. It brings them into
    that order by itself, but not in the body of a loop, where JAX's take 10 to 50 times as long.
    """
    x, kernel = inputs
    size = len(kernel)
    around_dy, around_x = [], []  # of rows and of columns
    for side, outputs in zip(x.shape[1:3], dy.shape[1:3], strict=True):
        span = (outputs - 1) * stride + 1  # of the pixels that are centers of windows
        around_dy.append((size - 1 - size // 2, side + size // 2 - span))
        around_x.append((size // 2, size - 1 + span - side - size // 2))
    dx = lax.conv_general_dilated(
        dy,
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        (1, 1),
        around_dy,
        lhs_dilation=(stride, stride),
        dimension_numbers=_DIMENSIONS,
    )
    # Channels in place of images, images in place of channels.
    dkernel = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        (1, 1),
        around_x,
        rhs_dilation=(stride, stride),
        dimension_numbers=_DIMENSIONS,
    )
    return dx, dkernel.transpose(1, 2, 0, 3)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _native_max_pool(x: jax.Array) -> jax.Array:
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        (1, 3, 3, 1),
        (1, 2, 2, 1),
        [(0, 0), (1, 1), (1, 1), (0, 0)],
    )


@jax.custom_vjp
def _max_pool(x: jax.Array) -> jax.Array:
    return _native_max_pool(x)


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _native_max_pool(x), x


def _max_pool_backward(x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    """Returns the gradient of each pixel: the sum over the windows whose maximum it is.

    A pixel is in four windows at most. First the place of the maximum in each window is found, 3 i
    + j for row i and column j, [n, rows, columns, c]. Then the gradients of pixels of even and odd
    rows and columns are computed apart, as each kind is at fixed places of its windows, and
    interleaved.
    """
    n, height, width, channels = x.shape
    rows, columns = dy.shape[1:3]
    around = [(0, 0), (1, 2 * rows - height), (1, 2 * columns - width), (0, 0)]
    padded = jnp.pad(x, around, constant_values=-jnp.inf)
    best, place = jnp.full(dy.shape, -jnp.inf, x.dtype), jnp.zeros(dy.shape, jnp.int8)
    for i, j in itertools.product(range(3), range(3)):
        end = (n, i + 2 * rows - 1, j + 2 * columns - 1, channels)
        values = lax.slice(padded, (0, i, j, 0), end, (1, 2, 2, 1))
        place = jnp.where(values > best, jnp.int8(3 * i + j), place)
        best = jnp.maximum(values, best)
    place = lax.optimization_barrier(place)  # else XLA computes it again for each use
    after = [(0, 0), (0, 1), (0, 1), (0, 0)]
    place, dy = jnp.pad(place, after, constant_values=-1), jnp.pad(dy, after)
    # A pixel of an even row is in the middle row of one window; one of an odd row is in the last
    # row of a window and the first of the next. By parity: (offset of the window, row in it). The
    # same holds for columns.
    windows = {0: [(0, 1)], 1: [(0, 2), (1, 0)]}

    def gradient(odd_row: int, odd_column: int) -> jax.Array:
        dx = jnp.zeros((n, rows, columns, channels), dy.dtype)
        for (a, i), (b, j) in itertools.product(windows[odd_row], windows[odd_column]):
            window = slice(None), slice(a, a + rows), slice(b, b + columns)
            dx += jnp.where(place[window] == 3 * i + j, dy[window], 0)
        return dx

    by_parity = [jnp.stack([gradient(p, q) for q in (0, 1)], axis=3) for p in (0, 1)]
    dx = jnp.stack(by_parity, axis=2).reshape(n, 2 * rows, 2 * columns, channels)
    return (dx[:, :height, :width],)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
