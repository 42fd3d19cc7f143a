"""Loads published weights, from a file or the Hugging Face hub, into a Flax tree."""

import collections
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from dcjax.core import naming, regular_files
from dcjax.core.errors import InputError, MissingFileError, file_errors
from dcjax.models import (
    hub,
    pixel_statistics,
    resnet_names,
    vit_names,
    weight_files,
    weight_names,
)
from dcjax.models.weight_names import JOINED, Kind

Tree = dict[str, Any]

_KINDS = (resnet_names.KIND, vit_names.KIND)


def load(
    source: str,
    params: Tree,
    batch_stats: Tree,
    *,
    download: bool,
    statistics: pixel_statistics.Statistics | None = None,
    say: weight_files.Say | None = None,
) -> tuple[Tree, Tree]:
    """Fills a backbone with published weights.

    Names are those of torchvision, timm, DINO, DINOv2, or Hugging Face. All may have a prefix, such
    as "backbone." or "module.model."; of several, the one with most of the backbone's names is
    used, and names without it are left out. Stages that the backbone does not have, the classifier,
    counters and what serves pre-training only are ignored. The position embeddings of a vision
    transformer are resized to its grid of patches.

    Args:
      source: a path of a file as `weight_files.read` takes it, or the name of a repository on the
        hub.
      params: the backbone's parameters; gives names and shapes.
      batch_stats: the backbone's running statistics, {} if it has none.
      download: whether a repository that is not in the hub's cache may be downloaded.
      statistics: of the pixels that the backbone gets; compared with those that a file beside the
        weights names.
      say: called with a line for each choice: of a state dict, and of a prefix.

    Raises:
      MissingFileError: if there are no such weights.
      InputError: if the file is damaged, of another network, lacks a leaf, has a name that nothing
        takes, two for one leaf, a tensor of another shape or type, or values that are not finite;
        if several networks are in it; or if its publisher names other pixels.
    """
    path = _locate(source, download=download)
    tensors = weight_files.read(path, say)
    tree = flax.traverse_util.flatten_dict({"params": params, "batch_stats": batch_stats})
    kind = _kind(tree)
    names = {leaf: kind.leaf_name(leaf) for leaf in tree}
    wanted = {names[leaf]: weight_names.file_shape(leaf, x) for leaf, x in tree.items()}
    _check_kind(path, tensors, kind)
    if statistics is not None:
        pixel_statistics.check_published(path, statistics)
    original = {name: kind.split(weight_names.without_wrappers(name)) for name in tensors}
    tensors, split = kind.prepare(tensors, original, wanted)
    prefix = _prefix(path, [around for around, new in split.values() if new in wanted])
    under_prefix = {new: name for name, (around, new) in split.items() if around == prefix}
    kind.check(path, {new: tensors[name].shape for new, name in under_prefix.items()}, wanted)
    found, left_over, elsewhere = _match(split, prefix, wanted, kind)
    removed = {_removed_prefix(name, prefix) for same in found.values() for name in same}
    if any(removed) and say:
        before = " or ".join(map(repr, sorted(removed)))
        rest = f"; left out: {weight_files.join_names(elsewhere)}" if elsewhere else ""
        say(f"weights   by their names without {before}{rest}")
    given = {leaf: [tensors[name] for name in found[new]] for leaf, new in names.items()}
    filled = {
        leaf: _as_leaf(leaf, x[0], tree[leaf])
        for leaf, x in given.items()
        if x and _fits(leaf, x[0], tree[leaf])  # so it is not larger than the leaf
    }
    problems = {
        "Missing": [name for name, same in found.items() if not same],
        "Nothing takes": left_over,
        "Twice": [" and ".join(same) for same in found.values() if len(same) > 1],
        "Wrong shape or type": [
            f"{name} (need float {wanted[new]}, found {x.dtype} {x.shape})"
            for leaf, new in names.items()
            for name, x in ((name, tensors[name]) for name in found[new])
            if not _fits(leaf, x, tree[leaf])
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


def _kind(tree: Mapping[weight_names.Leaf, Any]) -> Kind:
    """Returns the names of the kind of network that a tree is of; of ResNets if of neither."""
    for kind in _KINDS:
        if any(kind.leaf_name(leaf) == kind.first for leaf in tree):
            return kind
    return resnet_names.KIND


def _check_kind(path: str, tensors: weight_files.Tensors, kind: Kind) -> None:
    """Checks that a file is not of the other kind of network."""

    def shapes_by(other: Kind) -> dict[str, tuple[int, ...]]:
        split = {name: other.split(weight_names.without_wrappers(name)) for name in tensors}
        return {new: tensors[name].shape for name, (_, new) in split.items()}

    if kind.first in shapes_by(kind):
        return
    for other in _KINDS:
        if other is not kind and other.first in (shapes := shapes_by(other)):
            raise InputError(
                f"{path} has weights of {other.describe(shapes)}, but the backbone is "
                f"{kind.describe({})}; give a model.backbone of that kind, or other weights."
            )


def _match(
    split: Mapping[str, tuple[str, str]], prefix: str, wanted: Iterable[str], kind: Kind
) -> tuple[dict[str, list[str]], list[str], list[str]]:
    """Returns the file's names for each wanted name, those left over, and those without the prefix.

    Args:
      split: the prefix and the standard name of each name of the file.
      prefix: of the backbone's names.
      wanted: the backbone's names.
      kind: of the network.
    """
    found: dict[str, list[str]] = {name: [] for name in wanted}
    left_over, elsewhere = [], []
    for name, (around, new) in split.items():
        if not f"{around}{new}".startswith(prefix):
            elsewhere.append(name)
        elif around == prefix and new in found:
            found[new].append(name)
        elif around != prefix or not kind.is_ignored(new, found):
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


def _removed_prefix(name: str, prefix: str) -> str:
    """Returns the removed start of a name: the prefix, and those of wrappers."""
    name = name.split(JOINED)[0]
    kept = weight_names.without_wrappers(name)[len(prefix) :]
    return name.removesuffix(kept) if name.endswith(kept) else prefix


def _fits(leaf: weight_names.Leaf, value: np.ndarray, wanted: Any) -> bool:
    is_number = jnp.issubdtype(value.dtype, jnp.floating)
    return value.shape == weight_names.file_shape(leaf, wanted) and is_number


def _as_leaf(leaf: weight_names.Leaf, value: np.ndarray, wanted: Any) -> np.ndarray:
    """Returns a tensor in our order of axes and type."""
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which is reported
        return weight_names.from_file(leaf, value).astype(wanted.dtype)
