"""Independent streams of random numbers, one for each purpose.

A stream is a function of the seed, its number below, and numbers that distinguish its draws, such
as the epoch. On the host it is a NumPy generator seeded by these integers; on devices it is a JAX
key into which they are folded. All generators and keys are made here.
"""

import enum
from typing import TYPE_CHECKING

import numpy as np

from dcjax.core.errors import InputError
from dcjax.core.ranges import require_whole

if TYPE_CHECKING:
    from jax import Array
    from jax.typing import ArrayLike

# (seed, stream, the numbers of that stream): what a draw on the host depends on.
Key = tuple[int, ...]

# SeedSequence splits larger integers in two: (2^32 + 5, 1) is (5, 1, 1).
_LARGEST = 2**32 - 1


class Stream(enum.IntEnum):
    """Streams on the host, with the names of the numbers that distinguish their draws.

    A stream has a fixed number of numbers, since SeedSequence pads with zeros: (4, 1) would equal
    (4, 1, 0, 0). `group` is 0 for all images, and 1 + c for those of cluster c when it is bisected.

    Attributes:
      KMEANS: the start of a K-means outside a division, as for NMI, with the seeds 0, 1, ... in all
        runs.
      CLUSTER_ORDER: the order of the clusters in an epoch.
      IMAGE_ORDER: the images in a cluster's batches in an epoch.
      CROPS: crops and flips of a block of an epoch's plan.
      AUGMENTATION: the other random steps of such a block.
      RANDOM_GROUPS: a trial to divide images at random.
      GALLERIES: a gallery of one image per class; with seed 0, so that it is the same in all runs.
      DIVISION: the start of a trial to divide images by K-means.
      REPORT: what a part of a report shows of the images; with seed 0, the same in all runs.
      SEARCH_PAGE: the images that a search page shows at first, by the number of the request.
      VIEWS: which of its augmented views an image of a block of an epoch's plan is read in.
      EFFECTS: the batches and images that show what a division does to learning.
      INTERVALS: the bootstrap of an interval in a table; with seed 0, so that tables are alike.
    """

    numbers: tuple[str, ...]

    def __new__(cls, value: int, *numbers: str) -> "Stream":
        """Creates a stream with these numbers."""
        stream = int.__new__(cls, value)
        stream._value_ = value
        stream.numbers = numbers
        return stream

    KMEANS = 0
    CLUSTER_ORDER = 1, "period", "epoch"
    IMAGE_ORDER = 2, "period", "epoch", "cluster"
    CROPS = 3, "epoch", "block"
    AUGMENTATION = 4, "epoch", "block"
    RANDOM_GROUPS = 5, "period", "group", "trial"
    GALLERIES = 6, "draw"
    DIVISION = 7, "period", "group", "trial"
    REPORT = 8, "part"
    SEARCH_PAGE = 9, "request"
    VIEWS = 10, "epoch", "block"
    EFFECTS = 11, "period"
    INTERVALS = 12


class DeviceStream(enum.IntEnum):
    """Streams on devices.

    Attributes:
      INITIALIZATION: the first weights of the network and of the loss.
      TRAINING: all steps, each of which folds in its number.
    """

    INITIALIZATION = 0
    TRAINING = 1


def generator(seed: int, stream: int, *numbers: int) -> np.random.Generator:
    """Returns the generator of one draw on the host.

    Raises:
      InputError: if the seed or a number is not a whole number from 0 to 2^32 - 1.
    """
    names = Stream(stream).numbers
    if len(numbers) != len(names):
        raise InputError(f"Stream {Stream(stream).name} has the numbers {names}, got {numbers}.")
    for name, number in zip(("seed", *names), (seed, *numbers), strict=True):
        require_whole(name, number, 0, _LARGEST)
    sequence = np.random.SeedSequence([int(number) for number in (seed, stream, *numbers)])
    # PCG64 of (seed, 0), which equals PCG64 of the seed, is NumPy's default generator.
    bits = np.random.PCG64 if stream == Stream.KMEANS else np.random.Philox
    return np.random.Generator(bits(sequence))


def kmeans_key(seed: int | Key) -> Key:
    """Returns the key of a K-means: that of a seed, or the key that is given."""
    return seed if isinstance(seed, tuple) else (seed, Stream.KMEANS)


def device_key(seed: "ArrayLike", stream: DeviceStream) -> "Array":
    """Returns the key of draws on devices; the seed may be traced."""
    import jax  # slow to import, and what draws on the host alone, as for crops, needs no JAX

    return jax.random.fold_in(jax.random.key(seed), int(stream))
