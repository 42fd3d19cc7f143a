"""Loads published weights, from a file or the Hugging Face hub, into a Flax tree."""

import collections
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
    tree = flax.traverse_util.flatten_dict({"params": params, "batch_stats": batch_stats})
    kind = _kind(tree)
    names = {leaf: kind.leaf_name(leaf) for leaf in tree}
    tensors = weight_files.read(path, say)
    _check_kind(path, tensors, kind)
    if statistics is not None:
        pixel_statistics.check_published(path, statistics)
    shapes = {names[leaf]: weight_names.file_shape(leaf, x) for leaf, x in tree.items()}
    match = _match(path, tensors, shapes, kind)
    if say and (choice := _choice_of_names(match)):
        say(choice)
    filled = {
        leaf: _as_leaf(leaf, match.tensors[match.found[new][0]], tree[leaf])
        for leaf, new in names.items()
        # A tensor that does not fit is reported; it may be too large to be copied.
        if match.found[new] and _fits(leaf, match.tensors[match.found[new][0]], tree[leaf])
    }
    problems = _problems_of_names(match, names, tree) | _problems_of_values(filled, names)
    if any(problems.values()):
        lines = [
            f"{what}: {weight_files.join_names(sorted(x))}." for what, x in problems.items() if x
        ]
        behind = f" behind {match.prefix!r}" if match.prefix else ""
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


class _Match(NamedTuple):
    """The tensors of a file that a backbone takes.

    Attributes:
      tensors: all of the file, each leaf in one tensor.
      prefix: of the backbone's names.
      found: the file's names for each standard name of the backbone; one, if all is well.
      left_over: names behind the prefix that nothing takes.
      elsewhere: names without the prefix.
    """

    tensors: weight_files.Tensors
    prefix: str
    found: dict[str, list[str]]
    left_over: list[str]
    elsewhere: list[str]


def _match(
    path: str, tensors: weight_files.Tensors, wanted: weight_names.Shapes, kind: Kind
) -> _Match:
    """Matches the tensors of a file with the standard names of a backbone.

    Args:
      path: of the file.
      tensors: of the file.
      wanted: the backbone's shapes by standard name.
      kind: of the network.

    Raises:
      InputError: if several networks are in the file, or one of other settings.
    """
    original = {name: kind.split(weight_names.without_wrappers(name)) for name in tensors}
    tensors, split = kind.prepare(tensors, original, wanted)
    prefix = _prefix(path, [around for around, new in split.values() if new in wanted])
    under_prefix = {new: name for name, (around, new) in split.items() if around == prefix}
    kind.check(path, {new: tensors[name].shape for new, name in under_prefix.items()}, wanted)
    match = _Match(tensors, prefix, {name: [] for name in wanted}, [], [])
    for name, (around, new) in split.items():
        if not f"{around}{new}".startswith(prefix):
            match.elsewhere.append(name)
        elif around == prefix and new in wanted:
            match.found[new].append(name)
        elif around != prefix or not kind.is_ignored(new, wanted):
            match.left_over.append(name)
    return match


def _choice_of_names(match: _Match) -> str:
    """Returns a line about the prefixes that were removed, "" if none was."""
    names = itertools.chain.from_iterable(match.found.values())
    removed = {_removed_prefix(name, match.prefix) for name in names}
    if not any(removed):
        return ""
    before = " or ".join(map(repr, sorted(removed)))
    elsewhere = weight_files.join_names(match.elsewhere)
    return f"weights   by their names without {before}{elsewhere and f'; left out: {elsewhere}'}"


def _problems_of_names(
    match: _Match, names: Mapping[weight_names.Leaf, str], tree: Mapping[weight_names.Leaf, Any]
) -> dict[str, list[str]]:
    """Returns names, by problem, that are missing or too many, or whose tensors do not fit."""
    return {
        "Missing": [name for name, same in match.found.items() if not same],
        "Nothing takes": match.left_over,
        "Twice": [" and ".join(same) for same in match.found.values() if len(same) > 1],
        "Wrong shape or type": [
            f"{name} (need float {weight_names.file_shape(leaf, tree[leaf])}, "
            f"found {x.dtype} {x.shape})"
            for leaf, new in names.items()
            for name, x in ((name, match.tensors[name]) for name in match.found[new])
            if not _fits(leaf, x, tree[leaf])
        ],
    }


def _problems_of_values(
    filled: Mapping[weight_names.Leaf, np.ndarray], names: Mapping[weight_names.Leaf, str]
) -> dict[str, list[str]]:
    """Returns names, by problem, of leaves whose values cannot be right."""
    return {
        "Not finite": [
            f"{names[leaf]} ({np.sum(~np.isfinite(x))} of {x.size} values)"
            for leaf, x in filled.items()
            if not np.all(np.isfinite(x))
        ],
        "Below 0": [  # whose root is not a number
            names[leaf] for leaf, x in filled.items() if leaf[-1] == "var" and np.any(x < 0)
        ],
    }


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
