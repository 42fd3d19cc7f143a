"""What the names of all published weights have in common."""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

Split = tuple[str, str]  # prefix and standard name
Leaf = tuple[str, ...]  # path in a tree of variables: (collection, module, ..., name)
Shapes = Mapping[str, tuple[int, ...]]  # by standard name, in PyTorch's order of axes
Tensors = dict[str, np.ndarray]

# The start of a pattern of names: modules around the network.
AROUND = r"(?P<around>(?:[^.]+\.)*?)"
JOINED = " + "  # between the names of tensors that make one
_LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
# Prefixes of DistributedDataParallel, torch.compile, FSDP and activation checkpointing.
_WRAPPERS = re.compile(
    r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_COUNTERS = ("num_batches_tracked", "n_averaged")  # of BatchNorm and of averaged weights


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of network, and the names that files give its tensors.

    Of the spellings that there are, one is the standard.

    Attributes:
      first: standard name of the first kernel, by which the kind is recognised.
      split: from a name without `without_wrappers` to its prefix and standard name; "" and the name
        itself for any other.
      leaf_name: from a leaf to its standard name.
      is_ignored: whether a tensor of a standard name may be there though none of the names in the
        second argument is its.
      describe: what network has these shapes.
      prepare: from the tensors of a file, what `split` makes of their names, and the shapes that
        are wanted, to tensors and names in which each leaf is one tensor; by default it is already.
      check: raises InputError if the second shapes, of a file, which comes first, are those of
        another network than the last; by default it does nothing, as where names say enough.
    """

    first: str
    split: Callable[[str], Split]
    leaf_name: Callable[[Leaf], str]
    is_ignored: Callable[[str, Collection[str]], bool]
    describe: Callable[[Shapes], str]
    prepare: Callable[
        [Tensors, Mapping[str, Split], Shapes], tuple[Tensors, Mapping[str, Split]]
    ] = lambda tensors, split, _: (tensors, split)
    check: Callable[[str, Shapes, Shapes], None] = lambda *_: None


def without_wrappers(name: str) -> str:
    """Returns a name without the prefixes that training adds."""
    return _WRAPPERS.sub("", name)


def is_counter(name: str) -> bool:
    """Returns whether a tensor counts batches or models, which no leaf takes."""
    return name.rsplit(".", 1)[-1] in _COUNTERS


def last_name(leaf: Leaf) -> str:
    """Returns PyTorch's name of the last part of a leaf."""
    return _LEAVES.get((leaf[0], leaf[-1]), leaf[-1])


def file_shape(leaf: Leaf, value: Any) -> tuple[int, ...]:
    """Returns the shape of a leaf in PyTorch's order of axes."""
    return tuple(value.shape[axis] for axis in _file_axes(leaf, value.ndim))


def from_file(leaf: Leaf, value: np.ndarray) -> np.ndarray:
    """Returns a tensor of a file in the order of axes of its leaf."""
    return value.transpose(np.argsort(_file_axes(leaf, value.ndim)))


def _file_axes(leaf: Leaf, ndim: int) -> tuple[int, ...]:
    """Returns which axis of a leaf each axis in a file is: kernels are [out, in, ...] there."""
    is_kernel = leaf[-1] == "kernel"
    return (ndim - 1, ndim - 2, *range(ndim - 2)) if is_kernel else tuple(range(ndim))
