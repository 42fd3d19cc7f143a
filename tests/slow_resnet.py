"""The ResNet by its definition, pixel by pixel, to test the fast version against."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dcjax.models.resnet import ResNet


def slow_conv(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    size = len(kernel)
    around = (size // 2, size // 2)
    x = np.pad(x, [(0, 0), around, around, (0, 0)])
    height, width = ((side - size) // stride + 1 for side in x.shape[1:3])
    out = np.zeros((len(x), height, width, kernel.shape[-1]))
    for i, j in np.ndindex(height, width):
        window = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
        out[:, i, j] = np.einsum("nhwc,hwcd->nd", window, kernel)
    return out


def slow_max_pool(x: np.ndarray) -> np.ndarray:
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    rows, columns = ((side - 1) // 2 + 1 for side in x.shape[1:3])
    shifted = [padded[:, i:, j:][:, ::2, ::2][:, :rows, :columns] for i, j in np.ndindex(3, 3)]
    return np.max(shifted, axis=0)


def slow_norm(x: np.ndarray, params: Any, stats: Any) -> np.ndarray:
    return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]


def slow_block(x: np.ndarray, params: Any, stats: Any, stride: int) -> np.ndarray:
    basic = "conv3" not in params
    y = x
    for i, s in enumerate((stride, 1) if basic else (1, stride, 1), 1):
        y = slow_conv(y, params[f"conv{i}"]["kernel"], s)
        y = slow_norm(y, params[f"bn{i}"], stats[f"bn{i}"])
        y = np.maximum(y, 0) if f"conv{i + 1}" in params else y
    if "downsample_0" in params:
        x = slow_conv(x, params["downsample_0"]["kernel"], stride)
        x = slow_norm(x, params["downsample_1"], stats["downsample_1"])
    return np.maximum(x + y, 0)


def slow_resnet(x: np.ndarray, net: ResNet, variables: Any) -> Iterator[np.ndarray]:
    """Yields the output of each stage by torchvision's definition, pixel by pixel."""
    params, stats = variables["params"], variables["batch_stats"]
    small = net.stem == "small"
    x = slow_conv(x, params["conv1"]["kernel"], 1 if small else 2)
    x = np.maximum(slow_norm(x, params["bn1"], stats["bn1"]), 0)
    x = x if small else slow_max_pool(x)
    for stage, num_blocks in enumerate(net.stage_sizes, 1):
        for i in range(num_blocks):
            stride = 2 if i == 0 and (small or stage > 1) else 1
            name = f"layer{stage}_{i}"
            x = slow_block(x, params[name], stats[name], stride)
        yield x


def random_variables(shapes: Any) -> Any:
    """Draws kernels of about unit gain, and running statistics other than 0 and 1."""
    rng = np.random.default_rng(0)
    draw = {
        "kernel": lambda shape: rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape),
        "scale": lambda shape: rng.uniform(0.5, 1.5, shape),
        "bias": lambda shape: rng.normal(0, 0.3, shape),
        "mean": lambda shape: rng.normal(0, 0.3, shape),
        "var": lambda shape: rng.uniform(0.01, 0.2, shape),
        "masks": lambda shape: rng.normal(0.5, 0.7, shape),
    }
    flat = flatten_dict(shapes)
    return unflatten_dict({name: draw[name[-1]](leaf.shape) for name, leaf in flat.items()})
