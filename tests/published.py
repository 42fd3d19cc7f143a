"""Names, shapes and values of published ResNets, for tests and golden numbers.

All values follow rules and need NumPy only, so they are equal with and without PyTorch.
"""

import re
import zlib
from collections.abc import Iterator

import numpy as np

Shapes = dict[str, tuple[int, ...]]
Tensors = dict[str, np.ndarray]

BLOCKS = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}


def shapes(
    network: str, *, width: int = 64, num_stages: int = 4, counters: bool = True, head: bool = True
) -> Shapes:
    """Returns the state dict of torchvision's network: the shape of each tensor by its name.

    Args:
      network: one of `BLOCKS`.
      width: channels of the first stage; 64 in torchvision.
      num_stages: stages that are kept.
      counters: whether BatchNorm's num_batches_tracked are there; older files have none.
      head: whether the classifier, fc, is there.
    """
    state_dict = dict(_conv_norm("conv1", "bn1", (width, 3, 7, 7)))
    block, stage_sizes = BLOCKS[network]
    channels = width
    for stage, num_blocks in enumerate(stage_sizes[:num_stages]):
        narrow = width * 2**stage
        wide = narrow if block == "basic" else 4 * narrow
        kernels = [(narrow, 3), (wide, 3)] if block == "basic" else [(narrow, 1), (narrow, 3)]
        kernels += [] if block == "basic" else [(wide, 1)]
        for index in range(num_blocks):
            name, into = f"layer{stage + 1}.{index}", channels
            for number, (out, size) in enumerate(kernels, 1):
                shape = (out, into, size, size)
                state_dict |= _conv_norm(f"{name}.conv{number}", f"{name}.bn{number}", shape)
                into = out
            if index == 0 and (stage > 0 or channels != wide):
                shape = (wide, channels, 1, 1)
                state_dict |= _conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", shape)
            channels = wide
    if head:
        state_dict |= {"fc.weight": (1000, channels), "fc.bias": (1000,)}
    return {name: s for name, s in state_dict.items() if counters or "num_batches" not in name}


def _conv_norm(conv: str, norm: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple]]:
    yield f"{conv}.weight", shape
    for name in ("weight", "bias", "running_mean", "running_var"):
        yield f"{norm}.{name}", shape[:1]
    yield f"{norm}.num_batches_tracked", ()


def hugging_face_name(name: str) -> str:
    """Returns the name that Hugging Face's `ResNetForImageClassification` gives a tensor."""
    for pattern, new in (
        (r"^fc\.", "classifier.1."),
        (r"^conv1\.", "resnet.embedder.embedder.convolution."),
        (r"^bn1\.", "resnet.embedder.embedder.normalization."),
        (r"^layer(\d)\.(\d+)", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}"),
        (r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution."),
        (r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization."),
        (r"\.downsample\.0\.", ".shortcut.convolution."),
        (r"\.downsample\.1\.", ".shortcut.normalization."),
    ):
        name = re.sub(pattern, new, name)
    return name


def draw(shapes: Shapes) -> Tensors:
    """Draws float32 weights, each seeded by its name, that keep activations of order one.

    Running statistics and the factors of BatchNorm differ from channel to channel.
    """
    return {name: _draw(name, shape) for name, shape in shapes.items()}


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    # RandomState is the only stream of NumPy that is guaranteed never to change.
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.array(rng.randint(1, 9), np.int64)
    if len(shape) == 4:  # a kernel of unit gain for outputs of a ReLU
        bound = np.sqrt(6 / np.prod(shape[1:]))
        return rng.uniform(-bound, bound, shape).astype(np.float32)
    # The branches' last factors are small, so that sums over many blocks do not grow.
    last = re.search(r"(bn3|layer[1-4]\.\d+\.bn2)\.weight", name)
    low, high = {
        "weight": (0.1, 0.4) if last else (0.7, 1.3),
        "bias": (-0.3, 0.3),
        "running_mean": (-0.3, 0.3),
        "running_var": (0.5, 2.0),
    }[name.rsplit(".", 1)[1]]
    return rng.uniform(low, high, shape).astype(np.float32)


def images(size: int) -> np.ndarray:
    """Returns one normalised image, float32 [1, size, size, 3]."""
    return np.random.RandomState(size).normal(size=(1, size, size, 3)).astype(np.float32)
