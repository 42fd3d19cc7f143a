"""Convolutions and max-pooling of a ResNet, as XLA's own or as what is fast on a CPU.

XLA's CPU backend multiplies matrices as fast as PyTorch does, but is slow in the gradients of
convolutions and of max-pooling, and in convolutions of small maps. Here each of a convolution's
three parts (output, gradient of its input, gradient of its kernel) is the form of it that
measured fastest; see docs/performance.md.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax

METHODS = ("auto", "xla", "matmul")

# Sides of an output map, in pixels, up to which products of patches are faster than XLA's
# convolution: the gradient of the input needs no patches of its argument, so it gains for longer.
_PATCHES = 3
_INPUT_GRADIENT_PATCHES = 7
# Channels up to which a 1 x 1 convolution with a stride is as well left to XLA: its copy of every
# second pixel takes longer than the product.
_NARROW = 64


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
    return (_native if is_native(method) else _convolve)(x, kernel, stride)


def max_pool(x: jax.Array, method: str) -> jax.Array:
    """Takes the maximum of each 3 x 3 window in steps of two, with padding of one.

    Maps [n, h, w, c] to [n, ceil(h / 2), ceil(w / 2), c]; method as in `convolve`. In the
    gradient, the first of equal maxima counts, row by row.
    """
    return (_native_max_pool if is_native(method) else _max_pool)(x)


def _native(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    around = (kernel.shape[0] // 2, kernel.shape[1] // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(side, side) for side in around],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    is_product = len(kernel) == 1 and (stride == 1 or x.shape[-1] > _NARROW)
    if is_product or _map_side(x, stride) <= _PATCHES:
        return _patches(x, len(kernel), stride) @ _as_matrix(kernel)
    return _native(x, kernel, stride)


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel, stride), (x, kernel)


def _backward(
    stride: int, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return _input_gradient(x, kernel, stride, dy), _kernel_gradient(x, kernel, stride, dy)


_convolve.defvjp(_forward, _backward)


def _input_gradient(x: jax.Array, kernel: jax.Array, stride: int, dy: jax.Array) -> jax.Array:
    size = len(kernel)
    if size == 1 or stride > 1 or _map_side(x, stride) <= _INPUT_GRADIENT_PATCHES:
        (dx,) = jax.linear_transpose(lambda x: _patches(x, size, stride), x)(
            dy @ _as_matrix(kernel).T
        )
        return dx
    return _native(dy, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), 1)


def _kernel_gradient(x: jax.Array, kernel: jax.Array, stride: int, dy: jax.Array) -> jax.Array:
    size = len(kernel)
    if size == 1 or _map_side(x, stride) <= _PATCHES:
        patches = _patches(x, size, stride)
        return _outer(_rows(patches), _rows(dy)).reshape(kernel.shape)
    (gradient,) = jax.linear_transpose(lambda kernel: _native(x, kernel, stride), kernel)(dy)
    return gradient


def _map_side(x: jax.Array, stride: int) -> int:
    return -(-max(x.shape[1:3]) // stride)


def _as_matrix(kernel: jax.Array) -> jax.Array:
    return kernel.reshape(-1, kernel.shape[-1])


def _rows(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])


def _patches(x: jax.Array, size: int, stride: int) -> jax.Array:
    """Lays the inputs of each output side by side: [n, h, w, c] to [n, h', w', size size c]."""
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


def _outer(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns a^T b; the backend transposes its first factor, so the narrower one comes first."""
    if a.shape[1] <= b.shape[1]:
        return a.T @ b
    return lax.optimization_barrier(b.T @ a).T  # else XLA turns it back


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
    """Gives each pixel the gradients of the windows, four at most, whose maximum it is."""
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
    place = lax.optimization_barrier(place)  # kept, not found again for every pixel that asks
    after = [(0, 0), (0, 1), (0, 1), (0, 0)]
    place, dy = jnp.pad(place, after, constant_values=-1), jnp.pad(dy, after)
    # A pixel of even row is the middle of one window; of odd row, the last of one and the first
    # of the next: (windows further, row in it). Columns are alike.
    windows = {0: [(0, 1)], 1: [(0, 2), (1, 0)]}

    def gradient(odd_row: int, odd_column: int) -> jax.Array:
        found = jnp.zeros((n, rows, columns, channels), dy.dtype)
        for (a, i), (b, j) in itertools.product(windows[odd_row], windows[odd_column]):
            window = slice(None), slice(a, a + rows), slice(b, b + columns)
            found += jnp.where(place[window] == 3 * i + j, dy[window], 0)
        return found

    by_parity = [jnp.stack([gradient(p, q) for q in (0, 1)], axis=3) for p in (0, 1)]
    dx = jnp.stack(by_parity, axis=2).reshape(n, 2 * rows, 2 * columns, channels)
    return (dx[:, :height, :width],)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
