"""Published ImageNet weights, from a file or the Hugging Face hub, into our tree."""

import pathlib
import re
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from dcjax import hub, weight_files
from dcjax.errors import InputError, MissingFileError

Tree = dict[str, Any]

_LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
# Hugging Face's names, in which stages and convolutions count from 0.
_STEM = re.compile(r"(resnet\.)?embedder\.embedder\.(convolution|normalization)\.")
_BLOCK = re.compile(
    r"(resnet\.)?encoder\.stages\.(\d+)\.layers\.(\d+)\."
    r"(?:layer\.(\d+)|shortcut)\.(convolution|normalization)\."
)
_COUNTERS = ("num_batches_tracked", "n_averaged")  # of BatchNorm and of averaged weights


def load(source: str, params: Tree, batch_stats: Tree, *, download: bool) -> tuple[Tree, Tree]:
    """Fills a backbone with published weights.

    Names are torchvision's, which are timm's too, or Hugging Face's, with or without the
    "module." of a parallel training. Those of stages that the backbone does not have, of the
    classifier and of counters are passed over.

    Args:
      source: a path of a file as `weight_files.read` takes it, or the name of a repository on the
        hub.
      params: the backbone's parameters; gives names and shapes.
      batch_stats: the backbone's running statistics.
      download: whether a repository that is not in the hub's cache may be downloaded.

    Raises:
      MissingFileError: if there are no such weights.
      InputError: if the file is damaged, lacks a leaf, has a name that nothing takes, two for
        one leaf, or a tensor of another shape or type; all of them are listed.
    """
    path = _locate(source, download=download)
    tensors = weight_files.read(path)
    tree = flax.traverse_util.flatten_dict({"params": params, "batch_stats": batch_stats})
    names = {leaf: _leaf_name(leaf) for leaf in tree}
    found: dict[str, list[str]] = {name: [] for name in names.values()}
    stages = {name.split(".")[0] for name in found}
    left_over = []
    for name in tensors:
        new = _torchvision_name(name)
        if new in found:
            found[new].append(name)
        elif not _passed_over(new, stages):
            left_over.append(name)
    problems = {
        "Missing": [name for name, given in found.items() if not given],
        "Nothing takes": left_over,
        "Twice": [" and ".join(given) for given in found.values() if len(given) > 1],
        "Wrong shape or type": [
            f"{name} (need float {_file_shape(tree[leaf])}, found {x.dtype} {x.shape})"
            for leaf, new in names.items()
            for name, x in ((name, tensors[name]) for name in found[new])
            if x.shape != _file_shape(tree[leaf]) or not jnp.issubdtype(x.dtype, jnp.floating)
        ],
    }
    if any(problems.values()):
        told = [f"{what}: {', '.join(sorted(x))}." for what, x in problems.items() if x]
        raise InputError(f"The weights in {path} do not fit the backbone. {' '.join(told)}")
    filled = {
        leaf: jnp.asarray(_in_our_order(tensors[found[name][0]]), tree[leaf].dtype)
        for leaf, name in names.items()
    }
    filled_tree = flax.traverse_util.unflatten_dict(filled)
    return filled_tree["params"], filled_tree.get("batch_stats", {})


def check(source: str, *, download: bool) -> None:
    """Raises MissingFileError unless there is such a file of weights, or it may be downloaded."""
    if not (download and hub.is_name(source)):
        _locate(source, download=False)


def _locate(source: str, *, download: bool) -> str:
    if not pathlib.Path(source).exists() and hub.is_name(source):
        return hub.find(source, download=download)
    if not pathlib.Path(source).is_file():
        raise MissingFileError(
            f"No weights at model.pretrained={source!r}; give the path of a file (safetensors, "
            "torch.save or numpy.savez), the name of a repository on the Hugging Face hub as "
            "timm/resnet50.tv_in1k, or '' to start from random weights."
        )
    return source


def _torchvision_name(name: str) -> str:
    """Returns the name that torchvision gives a tensor, by whichever of the names it is called."""
    name = re.sub(r"^(module\.)+", "", name)
    if match := _STEM.match(name):
        layer = {"convolution": "conv1", "normalization": "bn1"}[match[2]]
    elif match := _BLOCK.match(name):
        stage, block, number, kind = match.groups()[1:]
        part = {"convolution": "conv", "normalization": "bn"}[kind] + str(int(number or 0) + 1)
        if number is None:
            part = {"conv1": "downsample.0", "bn1": "downsample.1"}[part]
        layer = f"layer{int(stage) + 1}.{block}.{part}"
    else:
        return re.sub(r"^classifier\.1\.", "fc.", name)
    return f"{layer}.{name[match.end() :]}"


def _leaf_name(leaf: tuple[str, ...]) -> str:
    """Returns layer1.0.conv1.weight for (params, layer1_0, conv1, kernel)."""
    modules = [re.sub(r"^(layer\d|downsample)_", r"\1.", module) for module in leaf[1:-1]]
    return ".".join([*modules, _LEAVES[leaf[0], leaf[-1]]])


def _file_shape(leaf: Any) -> tuple[int, ...]:
    """Returns the shape in PyTorch's order, in which kernels are [out, in, height, width]."""
    return tuple(leaf.shape[axis] for axis in (3, 2, 0, 1)) if leaf.ndim == 4 else leaf.shape


def _in_our_order(value: np.ndarray) -> np.ndarray:
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value


def _passed_over(name: str, stages: set[str]) -> bool:
    if name.startswith("fc.") or name.rsplit(".", 1)[-1] in _COUNTERS:
        return True
    return re.match(r"layer\d\.", name) is not None and name.split(".")[0] not in stages
