"""Loads published ImageNet weights, from a file or the Hugging Face hub, into a Flax tree."""

import collections
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from dcjax.core import naming, regular_files
from dcjax.core.errors import InputError, MissingFileError, file_errors
from dcjax.models import hub, weight_files

Tree = dict[str, Any]

_LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
# Patterns of names: a prefix of modules around the network, and then torchvision's name, or Hugging
# Face's, in which stages and convolutions are counted from 0.
_AROUND = r"(?P<around>(?:[^.]+\.)*?)"
_TORCHVISION = re.compile(_AROUND + r"(?P<rest>(?:conv1|bn1|layer\d+|fc)\..*)")
_CLASSIFIER = re.compile(_AROUND + r"classifier\.1\.(?P<rest>.*)")
_STEM = re.compile(
    _AROUND + r"(?:resnet\.)?embedder\.embedder\."
    r"(?P<kind>convolution|normalization)\.(?P<rest>.*)"
)
_BLOCK = re.compile(
    _AROUND + r"(?:resnet\.)?encoder\.stages\.(?P<stage>\d+)\.layers\.(?P<block>\d+)\."
    r"(?:layer\.(?P<number>\d+)|shortcut)\.(?P<kind>convolution|normalization)\.(?P<rest>.*)"
)
# Prefixes of DistributedDataParallel, torch.compile, FSDP and activation checkpointing.
_WRAPPERS = re.compile(
    r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_COUNTERS = ("num_batches_tracked", "n_averaged")  # of BatchNorm and of averaged weights


def load(
    source: str,
    params: Tree,
    batch_stats: Tree,
    *,
    download: bool,
    say: weight_files.Say | None = None,
) -> tuple[Tree, Tree]:
    """Fills a backbone with published weights.

    Names are those of torchvision, which timm uses too, or of Hugging Face. All may have a prefix,
    such as "backbone." or "module.model."; of several, the one with most of the backbone's names is
    used, and names without it are left out. Stages that the backbone does not have, the classifier
    and counters are ignored.

    Args:
      source: a path of a file as `weight_files.read` takes it, or the name of a repository on the
        hub.
      params: the backbone's parameters; gives names and shapes.
      batch_stats: the backbone's running statistics.
      download: whether a repository that is not in the hub's cache may be downloaded.
      say: called with a line for each choice: of a state dict, and of a prefix.

    Raises:
      MissingFileError: if there are no such weights.
      InputError: if the file is damaged, lacks a leaf, has a name that nothing takes, two for
        one leaf, a tensor of another shape or type, or values that are not finite; or if several
        networks are in it.
    """
    path = _locate(source, download=download)
    tensors = weight_files.read(path, say)
    tree = flax.traverse_util.flatten_dict({"params": params, "batch_stats": batch_stats})
    names = {leaf: _leaf_name(leaf) for leaf in tree}
    split = {name: _split(name) for name in tensors}
    prefix = _prefix(path, [around for around, new in split.values() if new in names.values()])
    found, left_over, elsewhere = _match(split, prefix, names.values())
    removed = {_removed_prefix(name, prefix) for same in found.values() for name in same}
    if any(removed) and say:
        before = " or ".join(map(repr, sorted(removed)))
        rest = f"; left out: {weight_files.join_names(elsewhere)}" if elsewhere else ""
        say(f"weights   by their names without {before}{rest}")
    given = {leaf: [tensors[name] for name in found[new]] for leaf, new in names.items()}
    filled = {
        leaf: _as_leaf(x[0], tree[leaf])
        for leaf, x in given.items()
        if x and _fits(x[0], tree[leaf])  # so it is not larger than the leaf
    }
    problems = {
        "Missing": [name for name, same in found.items() if not same],
        "Nothing takes": left_over,
        "Twice": [" and ".join(same) for same in found.values() if len(same) > 1],
        "Wrong shape or type": [
            f"{name} (need float {_file_shape(tree[leaf])}, found {x.dtype} {x.shape})"
            for leaf, new in names.items()
            for name, x in ((name, tensors[name]) for name in found[new])
            if not _fits(x, tree[leaf])
        ],
        "Not finite": [
            f"{names[leaf]} ({np.sum(~np.isfinite(x))} of {x.size} values)"
            for leaf, x in filled.items()
            if not np.all(np.isfinite(x))
        ],
        "Below 0": [  # whose root is not a number
            names[leaf] for leaf, x in filled.items() if leaf[-1] == "var" and np.any(x < 0)
        ],
    }
    if any(problems.values()):
        lines = [
            f"{what}: {weight_files.join_names(sorted(x))}." for what, x in problems.items() if x
        ]
        behind = f" behind {prefix!r}" if prefix else ""
        raise InputError(
            f"The weights{behind} in {path} do not fit the backbone. {' '.join(lines)}"
        )
    arrays = {leaf: jnp.asarray(x) for leaf, x in filled.items()}
    filled_tree = flax.traverse_util.unflatten_dict(arrays)
    return filled_tree["params"], filled_tree.get("batch_stats", {})


def check(source: str, *, download: bool) -> None:
    """Checks that there is such a file of weights, or that it may be downloaded.

    Raises:
      MissingFileError: if not.
      FileError: if the system does not let it be looked for.
    """
    if not (download and hub.is_name(source)):
        with file_errors(f"Cannot read model.pretrained={source!r}"):
            _locate(source, download=False)


def _locate(source: str, *, download: bool) -> str:
    path = naming.expand(source)
    if not pathlib.Path(path).exists() and hub.is_name(source):
        return hub.find(source, download=download)
    if not pathlib.Path(path).is_file():
        kind = regular_files.other_kind(path)
        raise MissingFileError(
            f"No weights at model.pretrained={source!r}; give the path of a file (safetensors, "
            "torch.save or numpy.savez), the name of a repository on the Hugging Face hub as "
            "timm/resnet50.tv_in1k, or '' to start from random weights."
            f"{f' {path} is {kind}.' if kind else ''}"
        )
    return path


def _match(
    split: Mapping[str, tuple[str, str]], prefix: str, wanted: Iterable[str]
) -> tuple[dict[str, list[str]], list[str], list[str]]:
    """Returns the file's names for each wanted name, those left over, and those without the prefix.

    Args:
      split: what `_split` makes of each name of the file.
      prefix: of the backbone's names.
      wanted: the backbone's names.
    """
    found: dict[str, list[str]] = {name: [] for name in wanted}
    stages = {name.split(".")[0] for name in found}
    left_over, elsewhere = [], []
    for name, (around, new) in split.items():
        if not f"{around}{new}".startswith(prefix):
            elsewhere.append(name)
        elif around == prefix and new in found:
            found[new].append(name)
        elif around != prefix or not _is_ignored(new, stages):
            left_over.append(name)
    return found, left_over, elsewhere


def _prefix(path: str, around: Sequence[str]) -> str:
    """Returns the most frequent prefix of names that the backbone has."""
    (first, most), (second, others), *_ = [
        *collections.Counter(around).most_common(2),
        ("", 0),
        ("", 0),
    ]
    if most and most == others:
        raise InputError(
            f"{path} holds more than one network of the backbone's names, behind {first!r} and "
            f"{second!r}; save the wanted one alone, as torch.save(model.backbone.state_dict(), "
            "PATH)."
        )
    return first


def _split(name: str) -> tuple[str, str]:
    """Returns the prefix of a name, and torchvision's name of the tensor.

    For a name that is not of a ResNet: "" and the name.
    """
    name = _WRAPPERS.sub("", name)
    if match := _STEM.fullmatch(name):
        layer = {"convolution": "conv1", "normalization": "bn1"}[match["kind"]]
    elif match := _BLOCK.fullmatch(name):
        number = match["number"]
        part = {"convolution": "conv", "normalization": "bn"}[match["kind"]]
        part += str(int(number or 0) + 1)
        if number is None:
            part = {"conv1": "downsample.0", "bn1": "downsample.1"}[part]
        layer = f"layer{int(match['stage']) + 1}.{match['block']}.{part}"
    elif match := _CLASSIFIER.fullmatch(name):
        layer = "fc"
    elif match := _TORCHVISION.fullmatch(name):
        return match["around"], match["rest"]
    else:
        return "", name
    return match["around"], f"{layer}.{match['rest']}"


def _removed_prefix(name: str, prefix: str) -> str:
    """Returns the removed start of a name: the prefix, and those of wrappers."""
    kept = _WRAPPERS.sub("", name)[len(prefix) :]
    return name.removesuffix(kept) if name.endswith(kept) else prefix


def _leaf_name(leaf: tuple[str, ...]) -> str:
    """Returns layer1.0.conv1.weight for (params, layer1_0, conv1, kernel)."""
    modules = [re.sub(r"^(layer\d|downsample)_", r"\1.", module) for module in leaf[1:-1]]
    return ".".join([*modules, _LEAVES[leaf[0], leaf[-1]]])


def _file_shape(leaf: Any) -> tuple[int, ...]:
    """Returns the shape in PyTorch's order, in which kernels are [out, in, height, width]."""
    return tuple(leaf.shape[axis] for axis in (3, 2, 0, 1)) if leaf.ndim == 4 else leaf.shape


def _fits(value: np.ndarray, leaf: Any) -> bool:
    return value.shape == _file_shape(leaf) and jnp.issubdtype(value.dtype, jnp.floating)


def _as_leaf(value: np.ndarray, leaf: Any) -> np.ndarray:
    """Returns a tensor in our order of axes and type."""
    ordered = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which is reported
        return ordered.astype(leaf.dtype)


def _is_ignored(name: str, stages: set[str]) -> bool:
    if name.startswith("fc.") or name.rsplit(".", 1)[-1] in _COUNTERS:
        return True
    return re.match(r"layer\d\.", name) is not None and name.split(".")[0] not in stages
