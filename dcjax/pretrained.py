"""Published ImageNet weights, in torchvision's names, into our tree."""

import pathlib
import re
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy

Tree = dict[str, Any]

_LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}


def load(path: str, params: Tree, batch_stats: Tree) -> tuple[Tree, Tree]:
    """Fills a backbone from a safetensors file.

    Names of stages that the backbone does not have, of the classifier (`fc`) and of counters
    (`num_batches_tracked`) are passed over.

    Args:
      path: a file with torchvision's key names.
      params: the backbone's parameters; gives names and shapes.
      batch_stats: the backbone's running statistics.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is damaged, lacks a leaf, has a name that nothing takes, or a
        tensor of another shape; all of them are listed.
    """
    tensors = _read(path)
    tree = flax.traverse_util.flatten_dict({"params": params, "batch_stats": batch_stats})
    names = {leaf: _torchvision_name(leaf) for leaf in tree}
    stages = {name.split(".")[0] for name in names.values()}
    known = set(names.values())
    left_over = sorted(n for n in tensors if n not in known and not _passed_over(n, stages))
    missing = sorted(name for name in known if name not in tensors)
    filled, wrong = {}, []
    for leaf, name in names.items():
        if name in missing:
            continue
        value = tensors[name]
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        if value.shape != tree[leaf].shape:
            wrong.append(f"{name} (need {_file_shape(tree[leaf])}, found {tensors[name].shape})")
        filled[leaf] = jax.numpy.asarray(value, tree[leaf].dtype)
    problems = [
        f"{what}: {', '.join(found)}."
        for what, found in (
            ("Missing", missing),
            ("Nothing takes", left_over),
            ("Wrong shape", wrong),
        )
        if found
    ]
    if problems:
        raise ValueError(f"The weights in {path} do not fit the backbone. {' '.join(problems)}")
    filled_tree = flax.traverse_util.unflatten_dict(filled)
    return filled_tree["params"], filled_tree.get("batch_stats", {})


def _read(path: str) -> dict[str, np.ndarray]:
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(
            f"No weights at model.pretrained={path!r}; give the path of a safetensors file, or "
            "'' to start from random weights."
        )
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"Cannot read {path} as safetensors: {error}.") from None


def _torchvision_name(leaf: tuple[str, ...]) -> str:
    """Returns layer1.0.conv1.weight for (params, layer1_0, conv1, kernel)."""
    modules = [re.sub(r"^(layer\d|downsample)_", r"\1.", module) for module in leaf[1:-1]]
    return ".".join([*modules, _LEAVES[leaf[0], leaf[-1]]])


def _file_shape(leaf: Any) -> tuple[int, ...]:
    """Returns the shape in PyTorch's order, in which kernels are [out, in, height, width]."""
    return tuple(leaf.shape[axis] for axis in (3, 2, 0, 1)) if leaf.ndim == 4 else leaf.shape


def _passed_over(name: str, stages: set[str]) -> bool:
    if name.endswith("num_batches_tracked") or name.startswith("fc."):
        return True
    return re.match(r"layer\d\.", name) is not None and name.split(".")[0] not in stages
